"""Inputs of every command, made by the commands themselves: corpora, a tokenizer, stores, two phases, exported models.

No file of them names the folder that they lie in, so that they can be copied.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from support.fault_matrix.cases import TRAIN
from support.fault_matrix.server import Order, Server
from support.tiny_run import make_run
from support.tiny_tasks import make_suite


def make_inputs(server: Server, folder: Path) -> Path:
    """Make the inputs below ``folder``, which is new; returns it."""
    _make_run(folder)

    def run(*argv: str) -> None:
        answer = server.run(Order((argv,), folder, folder, limit=300))
        if answer.statuses != (0,):
            raise RuntimeError(f"{argv}: {answer.log[-3000:]}")

    for part in ("1", "2"):
        partition = ("--partition", f"{part}/2", "--output", f"part{part}")
        run("preprocess", "--input", "train", "--tokenizer", "tokenizer", *partition)
    for phase in ("first", "second"):
        run("pretrain", *TRAIN, "--phase", phase, "--output", "second-done")
    _split_run(folder)
    run("export-mds", "store", "--tokenizer", "tokenizer", "--output", "mds", "--compression", "zstd")
    for name in ("1", "2"):
        run("convert-to-hf", f"ck{name}", "--tokenizer", "tokenizer", "--output", "hf" if name == "2" else "hf2")
    run("preflight", "recipe.yaml", "--output", "records", "--record", "records")
    (folder / "few.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in ("the cat sat", "der Hund"))
    )
    make_suite(folder, ["sentences"])
    (folder / "data").rename(folder / "tasks")
    (folder / "masks.tsv").write_text("language\ttext\texpected\nEnglish\tthe cat <mask> on a mat\tsat\n")
    return folder


def _make_run(folder: Path) -> None:
    """Corpora, tokenizer, stores and a recipe of two phases of six and four steps."""
    recipe = make_run(folder)
    text = recipe.read_text().replace(f"{folder}/", "")
    for was, now in (("tokens: 6000", "tokens: 2900"), ("tokens: 3000", "tokens: 1900"), ("layers: 3", "layers: 2")):
        assert was in text
        text = text.replace(was, now)
    recipe.write_text(text)


def _split_run(folder: Path) -> None:
    """Of the whole run: one of its first phase, one that stopped in it, and single checkpoints."""
    done = folder / "second-done"
    shutil.copytree(done, folder / "first-done", ignore=shutil.ignore_patterns("second"))
    shutil.copytree(folder / "first-done", folder / "stopped")
    first = sorted((done / "first/checkpoints").glob("step-*"))
    second = sorted((done / "second/checkpoints").glob("step-*"))
    shutil.rmtree(folder / "stopped/first/checkpoints" / first[-1].name)
    for name, checkpoint in (("first", first[-1]), ("ck1", second[-2]), ("ck2", second[-1])):
        shutil.copytree(checkpoint, folder / name)
