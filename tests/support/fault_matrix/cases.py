"""The commands as they are tried, on the inputs that :mod:`.inputs` makes."""

from __future__ import annotations

import socket
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A command as it is tried. Paths are relative to the folder of inputs, where it runs; outputs lie in ``../out``.

    Attributes:
        name: of the row in the matrix.
        argv: its arguments.
        output: what it writes, relative to ``../out``; empty for a command that writes nothing.
        inputs: files that it reads, and folders whose files it reads: each file is damaged in turn.
        texts: those of ``inputs`` that have no checksum: another content of them is as right.
        starts_from: an input that is copied to ``../out/run`` before each try (a run that is resumed).
        overwrite: its flag to replace its own output, empty if it has none.
        may_stay: patterns of names that may be there after an error, because the next try resumes from them.
        trains: whether the same command, run again after any end, resumes and ends in the whole output.
        verifies: whether it is there to find damage, so that a 0 for a damaged input is wrong.
        many_sentences: whether it has a sentence for each of several problems.
        falls_back: whether a checkpoint that the disk does not give makes it warn and answer by the one before it.
        ranks: processes of one training; 1 for a command alone.
    """

    # attributes: the columns of a table of commands
    name: str
    argv: tuple[str, ...]
    output: str = ""
    inputs: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    starts_from: str = ""
    overwrite: str = "--overwrite"
    may_stay: tuple[str, ...] = ()
    trains: bool = False
    verifies: bool = False
    many_sentences: bool = False
    falls_back: bool = False
    ranks: int = 1


TRAIN = (
    "recipe.yaml",
    "evaluation.stores=[]",
    "checkpoint.every_tokens=1000",
    "checkpoint.keep_last=2",
    "checkpoint.asynchronous=false",
    "resilience.failed_rank_seconds=3",
)
"""Arguments of every training."""


def _training(name: str, phase: str, *more: str, starts_from: str = "", ranks: int = 1) -> Case:
    argv = ("pretrain", *TRAIN, "--phase", phase, "--output", "../out/run", *more)
    inputs = () if starts_from or ranks > 1 else ("recipe.yaml", "tokenizer", "store")
    return Case(name, argv, "run", inputs, ("recipe.yaml",), starts_from, "", ("run",), trains=True, ranks=ranks)


_TOKENIZE = ("preprocess", "--input", "train", "--tokenizer", "tokenizer", "--output", "../out/store")
CASES = (
    Case(
        "train-tokenizer",
        ("train-tokenizer", "--input", "train", "--vocab-size", "384", "--output", "../out/tok"),
        "tok",
        ("train",),
        texts=("train",),
    ),
    Case(
        "split-heldout",
        ("split-heldout", "--input", "train", "--output", "../out/split"),
        "split",
        ("train",),
        texts=("train",),
    ),
    Case("preprocess", _TOKENIZE, "store", ("train", "tokenizer"), ("train",), may_stay=(".store.partial",)),
    Case(
        "preprocess-workers",
        (*_TOKENIZE, "--workers", "2"),
        "store",
        ("train",),
        ("train",),
        may_stay=(".store.partial",),
    ),
    Case(
        "preprocess-merge",
        ("preprocess", "--merge", "part1", "part2", "--output", "../out/store"),
        "store",
        ("part1",),
        ("part1/skipped.jsonl",),
        may_stay=(".store.partial",),
    ),
    Case(
        "import-mds",
        ("import-mds", "--input", "mds", "--tokenizer", "tokenizer", "--output", "../out/store"),
        "store",
        ("mds", "tokenizer"),
        may_stay=(".store.partial",),
    ),
    Case(
        "export-mds",
        ("export-mds", "store", "--tokenizer", "tokenizer", "--output", "../out/mds"),
        "mds",
        ("store", "tokenizer"),
        ("store/made_from.json",),
    ),
    Case(
        "verify-store",
        ("verify", "store"),
        inputs=("store",),
        texts=("store/made_from.json",),
        verifies=True,
        many_sentences=True,
    ),
    Case("verify-checkpoint", ("verify", "ck2", "--deep"), inputs=("ck2",), verifies=True, many_sentences=True),
    Case(
        "data-report",
        ("data-report", "store", "--output", "../out/look", "--recipe", "recipe.yaml"),
        "look",
        ("store", "tokenizer", "recipe.yaml"),
        ("recipe.yaml",),
    ),
    Case(
        "inspect",
        ("inspect", "recipe.yaml", "--phase", "first", "--at-token", "600", "--samples", "1"),
        inputs=("recipe.yaml", "store", "tokenizer"),
        texts=("recipe.yaml",),
    ),
    Case(
        "plan",
        ("plan", "recipe.yaml", "--output", "../out/plan.json"),
        "plan.json",
        ("recipe.yaml", "store"),
        ("recipe.yaml",),
        overwrite="",
    ),
    Case(
        "preflight",
        ("preflight", "recipe.yaml", "--output", "../out", "--record", "../out/records"),
        f"records/{socket.gethostname()}.json",
        ("recipe.yaml", "store", "tokenizer"),
        ("recipe.yaml", "tokenizer"),
        overwrite="",
        many_sentences=True,
    ),
    Case("preflight-compare", ("preflight", "--compare", "records"), inputs=("records",), many_sentences=True),
    Case("pipeline", ("pipeline", "recipe.yaml", "--dry-run"), inputs=("recipe.yaml",), texts=("recipe.yaml",)),
    _training("pretrain", "first"),
    _training("resume", "first", starts_from="stopped"),
    _training("next-phase", "second", starts_from="first-done"),
    _training("two-ranks", "first", ranks=2),
    _training("resume-two-ranks", "first", starts_from="stopped", ranks=2),
    Case(
        "transition",
        ("transition", "first", "--recipe", "recipe.yaml", "--to", "second", "--output", "../out/ck"),
        "ck",
        ("first", "recipe.yaml"),
        ("recipe.yaml",),
    ),
    Case(
        "extend-context",
        ("extend-context", "ck2", "--max-length", "256", "--rope-theta", "160000", "--output", "../out/ck"),
        "ck",
        ("ck2",),
    ),
    Case(
        "bits-per-byte",
        ("bits-per-byte", "ck2", "--recipe", "recipe.yaml", "--output", "../out/scores.json"),
        "scores.json",
        ("ck2", "heldout", "recipe.yaml"),
        ("recipe.yaml",),
        overwrite="",
    ),
    Case(
        "merge",
        ("merge", "--base", "ck1", "--models", "ck2", "ck1", "--output", "../out/merged"),
        "merged",
        ("ck1", "ck2"),
    ),
    Case(
        "merge-hf",
        ("merge", "--method", "linear", "--models", "hf", "hf2", "--output", "../out/merged"),
        "merged",
        ("hf",),
    ),
    Case(
        "convert-to-hf",
        ("convert-to-hf", "ck2", "--tokenizer", "tokenizer", "--output", "../out/hf"),
        "hf",
        ("ck2", "tokenizer"),
    ),
    Case("convert-from-hf", ("convert-from-hf", "hf", "--output", "../out/ck"), "ck", ("hf",)),
    Case(
        "encode",
        ("encode", "hf", "--input", "few.jsonl", "--output", "../out/vectors"),
        "vectors",
        ("hf", "few.jsonl"),
        ("few.jsonl",),
    ),
    Case(
        "evaluate",
        ("evaluate", "hf", "--suite", "suite.yaml", "--data", "tasks", "--output", "../out/scores", "--device", "cpu"),
        "scores",
        ("hf", "suite.yaml", "tasks"),
        ("suite.yaml", "tasks"),
        overwrite="",
        may_stay=("scores",),
    ),
    Case("fill-mask", ("fill-mask", "hf", "--texts", "masks.tsv"), "", ("hf", "masks.tsv"), ("masks.tsv",)),
    Case("report", ("report", "../out/run"), "run/report", starts_from="second-done", overwrite=""),
    Case("config-show", ("config-show", "recipe.yaml", "name"), inputs=("recipe.yaml",), texts=("recipe.yaml",)),
    Case(
        "where",
        ("where", "second-done", "first"),
        inputs=("second-done/first",),
        texts=("second-done/first",),
        falls_back=True,
    ),
    Case("completion", ("completion", "bash")),
    Case("doctor", ("doctor", "--length", "16", "--tokens", "16")),
)
