"""A small world for every command: corpora, a tokenizer, stores, a run of two phases, exported models.

Every input of every command lies below ``inputs``; a try writes below ``out`` alone.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from server import Server
from support.tiny_run import make_run


@dataclass(frozen=True)
class Case:
    """A command as it is tried.

    Attributes:
        name: of the row in the matrix.
        argv: its arguments; ``{in}`` and ``{out}`` stand for the folders.
        output: what it writes, relative to ``out``; empty for a command that writes nothing.
        inputs: files and folders below ``inputs`` that it reads, each of which is damaged in turn.
        starts_from: below ``inputs``: copied to the output before each try (a run that is resumed).
        overwrite: its flag to replace its own output, empty if it has none.
        may_stay: patterns of names that may be there after an error, because the next try resumes from them.
        resumable: whether the same command, run again after any end, goes on and ends in the reference.
    """

    name: str
    argv: tuple[str, ...]
    output: str = ""
    inputs: tuple[str, ...] = ()
    starts_from: str = ""
    overwrite: str = "--overwrite"
    may_stay: tuple[str, ...] = ()
    resumable: bool = False


_TRAIN = (
    "{in}/recipe.yaml",
    "evaluation.stores=[]",
    "checkpoint.every_tokens=1500",
    "checkpoint.asynchronous=false",
    "logging.tensorboard=false",
)
CASES = (
    Case(
        "train-tokenizer",
        ("train-tokenizer", "--input", "{in}/train", "--vocab-size", "384", "--output", "{out}/tok"),
        "tok",
        ("train/aaa_Latn.jsonl",),
    ),
    Case(
        "split-heldout",
        ("split-heldout", "--input", "{in}/train", "--output", "{out}/split"),
        "split",
        ("train/aaa_Latn.jsonl",),
    ),
    Case(
        "preprocess",
        ("preprocess", "--input", "{in}/train", "--tokenizer", "{in}/tokenizer", "--output", "{out}/store"),
        "store",
        ("train/aaa_Latn.jsonl", "tokenizer/tokenizer.model"),
        may_stay=(".store.partial",),
    ),
    Case(
        "preprocess-merge",
        ("preprocess", "--merge", "{in}/part1", "{in}/part2", "--output", "{out}/store"),
        "store",
        ("part1/part.json", "part1/ids.bin"),
        may_stay=(".store.partial",),
    ),
    Case(
        "verify-store",
        ("verify", "{in}/store"),
        inputs=("store/manifest.json", "store/shard-00000.bin", "store/shard-00000.idx"),
    ),
    Case(
        "verify-checkpoint",
        ("verify", "{in}/ck2"),
        inputs=("ck2/checkpoint.json", "ck2/checksums.json", "ck2/__0_0.distcp", "ck2/.metadata"),
    ),
    Case(
        "inspect",
        ("inspect", "{in}/recipe.yaml", "--phase", "first"),
        inputs=("recipe.yaml", "store/manifest.json", "store/shard-00000.idx"),
    ),
    Case(
        "plan",
        ("plan", "{in}/recipe.yaml", "--output", "{out}/plan.json"),
        "plan.json",
        ("recipe.yaml", "store/manifest.json"),
    ),
    Case(
        "pretrain",
        ("pretrain", *_TRAIN, "--phase", "first", "--output", "{out}/run"),
        "run",
        (
            "recipe.yaml",
            "tokenizer/tokenizer.model",
            "store/manifest.json",
            "store/shard-00000.idx",
            "store/shard-00000.bin",
        ),
        overwrite="",
        may_stay=("run",),
        resumable=True,
    ),
    Case(
        "resume",
        ("pretrain", *_TRAIN, "--phase", "first", "--output", "{out}/run"),
        "run",
        starts_from="stopped",
        overwrite="",
        may_stay=("run",),
        resumable=True,
    ),
    Case(
        "next-phase",
        ("pretrain", *_TRAIN, "--phase", "second", "--output", "{out}/run"),
        "run",
        starts_from="first-done",
        overwrite="",
        may_stay=("run",),
        resumable=True,
    ),
    Case(
        "transition",
        ("transition", "{in}/first", "--recipe", "{in}/recipe.yaml", "--to", "second", "--output", "{out}/ck"),
        "ck",
        ("first/checkpoint.json", "first/__0_0.distcp", "recipe.yaml"),
    ),
    Case(
        "extend-context",
        ("extend-context", "{in}/ck2", "--max-length", "256", "--rope-theta", "160000", "--output", "{out}/ck"),
        "ck",
        ("ck2/checkpoint.json", "ck2/__0_0.distcp"),
    ),
    Case(
        "bits-per-byte",
        ("bits-per-byte", "{in}/ck2", "--recipe", "{in}/recipe.yaml", "--output", "{out}/scores.json"),
        "scores.json",
        ("ck2/checkpoint.json", "ck2/__0_0.distcp", "heldout/manifest.json", "heldout/shard-00000.bin"),
    ),
    Case(
        "merge",
        ("merge", "--base", "{in}/ck1", "--models", "{in}/ck2", "{in}/ck1", "--output", "{out}/merged"),
        "merged",
        ("ck1/checkpoint.json", "ck2/__0_0.distcp"),
    ),
    Case(
        "merge-hf",
        ("merge", "--method", "linear", "--models", "{in}/hf", "{in}/hf2", "--output", "{out}/merged"),
        "merged",
        ("hf/config.json", "hf/model.safetensors"),
    ),
    Case(
        "convert-to-hf",
        ("convert-to-hf", "{in}/ck2", "--tokenizer", "{in}/tokenizer", "--output", "{out}/hf"),
        "hf",
        ("ck2/checkpoint.json", "ck2/__0_0.distcp", "tokenizer/tokenizer.model"),
    ),
    Case(
        "convert-from-hf",
        ("convert-from-hf", "{in}/hf", "--output", "{out}/ck"),
        "ck",
        ("hf/config.json", "hf/model.safetensors"),
    ),
    Case(
        "encode",
        ("encode", "{in}/hf", "--input", "{in}/few.jsonl", "--output", "{out}/vectors"),
        "vectors",
        ("hf/config.json", "hf/model.safetensors", "hf/tokenizer.json", "few.jsonl"),
    ),
    Case(
        "fill-mask",
        ("fill-mask", "{in}/hf", "--texts", "{in}/masks.tsv"),
        inputs=("hf/config.json", "hf/model.safetensors", "masks.tsv"),
    ),
    Case("report", ("report", "{out}/run"), "run", starts_from="second-done", overwrite="", may_stay=()),
    Case("config-show", ("config-show", "{in}/recipe.yaml", "name"), inputs=("recipe.yaml",)),
    Case("where", ("where", "{in}/second-done", "first")),
)


def make_world(folder: Path) -> Path:
    """Make the inputs below ``folder``, through the commands themselves; returns ``folder``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    recipe = make_run(folder)
    server, log = Server(), folder.parent / "world.log"

    def run(*argv: str) -> None:
        places = {"{in}": str(folder), "{out}": str(folder)}
        words = [_fill(word, places) for word in argv]
        answer = server.run(words, folder, log, folder, limit=300)
        if answer["status"] != 0:
            raise RuntimeError(f"{words}: {log.read_text(errors='replace')[-3000:]}")

    for part in ("1", "2"):
        run(
            "preprocess",
            "--input",
            "{in}/train",
            "--tokenizer",
            "{in}/tokenizer",
            "--partition",
            f"{part}/2",
            "--output",
            f"{{in}}/part{part}",
        )
    run("pretrain", *_TRAIN, "--phase", "first", "--output", "{in}/first-done")
    run("pretrain", *_TRAIN, "--phase", "second", "--output", "{in}/first-done")
    run_folder = folder / "first-done"
    run_folder.rename(folder / "second-done")
    done = folder / "second-done"
    shutil.copytree(done, folder / "first-done", ignore=shutil.ignore_patterns("second"))
    shutil.copytree(folder / "first-done", folder / "stopped")
    checkpoints = sorted((folder / "stopped/first/checkpoints").glob("step-*"))
    shutil.rmtree(checkpoints[-1])
    shutil.copytree(sorted((done / "first/checkpoints").glob("step-*"))[-1], folder / "first")
    for name, checkpoint in zip(("ck1", "ck2"), sorted((done / "second/checkpoints").glob("step-*"))[-2:], strict=True):
        shutil.copytree(checkpoint, folder / name)
    run("convert-to-hf", "{in}/ck2", "--tokenizer", "{in}/tokenizer", "--output", "{in}/hf")
    run("convert-to-hf", "{in}/ck1", "--tokenizer", "{in}/tokenizer", "--output", "{in}/hf2")
    server.close()
    (folder / "few.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in ("the cat sat", "der Hund"))
    )
    (folder / "masks.tsv").write_text("language\ttext\texpected\nEnglish\tthe cat <mask> on a mat\tsat\n")
    del recipe
    return folder


def _fill(word: str, places: dict[str, str]) -> str:
    for name, place in places.items():
        word = word.replace(name, place)
    return word
