"""A run that is killed at chosen moments and taken up again, and what it did in all: weights, steps, packs."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

from megatron_mmbert.checkpoint.discovery import committed_checkpoints, newest_valid
from megatron_mmbert.checkpoint.metadata import read_meta
from megatron_mmbert.data.preprocess.run import PreprocessJob, preprocess
from megatron_mmbert.tokenizer.settings import Settings
from megatron_mmbert.tokenizer.train import train_tokenizer
from support import ROOT
from support.forked_ranks import Ranks

LANGUAGES = ("eng_Latn", "deu_Latn", "rus_Cyrl", "tha_Thai", "swh_Latn", "fin_Latn")
RANKS = 4
MOMENTS = ("writing", "between ranks' files", "commit", "data", "first step", "between", "start")
LIMIT = 120.0  # seconds for whatever is waited for


def make_recipe(folder: Path, steps: int) -> Path:
    """tp 2 x dp 2 on six languages of the sample corpus, a checkpoint about every fourth step."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    for language in LANGUAGES:
        (found,) = (ROOT / "examples/sample_corpus/train").glob(f"{language}.*")
        (corpus / found.name).symlink_to(found)
    train_tokenizer([corpus], folder / "tokenizer", Settings(vocab_size=640))
    preprocess(PreprocessJob((corpus,), folder / "tokenizer", folder / "store", workers=1))
    recipe = {
        "name": "soak",
        "seed": 11,
        "model": {
            "num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 2, "vocab_size": 640,
            "max_length": 64, "window_each_side": 8,
        },
        "tokenizer": {"path": str(folder / "tokenizer")},
        "data": {"stores": [str(folder / "store")]},
        "parallel": {"tensor": 2}, "resilience": {"failed_rank_seconds": 4.0},
        "logging": {"peak_tflops": 1.0, "tensorboard": False},
        "checkpoint": {"every_tokens": 2000, "keep_last": 2},
        "phases": [
            {
                "name": "first", "tokens": 500 * steps, "mask_ratio": 0.3, "max_length": 64, "lr": 1e-3,
                "batch": {"tokens_per_step": 512, "tokens_per_micro_batch": 128},
            }
        ],
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


@dataclass
class Attempt:
    """One start of the run: its agent, and the folder in which its ranks show where they are."""

    agent: int
    marks: Path

    def pids(self) -> list[int]:
        """Of the ranks that have begun."""
        return [int(text) for path in sorted(self.marks.glob("pid-*")) if (text := path.read_text())]

    def alive(self) -> bool:
        try:
            os.kill(self.agent, 0)
        except ProcessLookupError:
            return False
        return True


class Run:
    """Attempts at one run, and what its ranks have read: a list of steps, cut back to each checkpoint taken up."""

    def __init__(self, folder: Path, recipe: Path) -> None:
        self.folder, self._recipe, self._number = folder, recipe, 0
        self.checkpoints = folder / "out/first/checkpoints"
        self.read: list[list[list[Any]]] = [[] for _ in range(RANKS)]
        self.records = folder / "records"
        self.records.mkdir(parents=True)
        self._ranks = Ranks("marks", Path(__file__).parent)

    def close(self) -> None:
        self._ranks.close()

    def attempt(self, disturb: Callable[[Attempt], None] = lambda attempt: None) -> int:
        """Start, or resume, let ``disturb`` do its worst, wait for the end; the agent's status."""
        self._number += 1
        name, marks = f"{self._number:03d}", self.folder / f"marks-{self._number:03d}"
        marks.mkdir()
        behind = self.newest()
        order = {
            "ranks": RANKS, "name": name, "marks": str(marks), "records": str(self.records),
            "log": str(self.folder / f"{name}.log"),
            "arguments": [str(self._recipe), "--phase", "first", "--output", str(self.folder / "out")],
        }  # fmt: skip
        status = self._ranks.run(order, lambda agent: disturb(Attempt(agent, marks)))
        self._take_in(name, behind)
        return status

    def newest(self) -> int:
        """Step of the newest sound checkpoint, 0 without one."""
        found = newest_valid(self.checkpoints, lambda _: None)
        return 0 if found is None else read_meta(found).step

    def finished(self) -> bool:
        found = newest_valid(self.checkpoints, lambda _: None)
        return found is not None and read_meta(found).finished

    def _take_in(self, name: str, behind: int) -> None:
        for rank in range(RANKS):
            path = self.records / f"{name}-rank-{rank}.jsonl"
            lines = path.read_text().splitlines(keepends=True) if path.exists() else []
            if lines:
                self.read[rank][behind:] = [json.loads(line) for line in lines if line.endswith("\n")]


class Killer:
    """Ends attempts: draws a moment, waits for it, sends the signal, and keeps count of what was met."""

    def __init__(self, run: Run, seed: int) -> None:
        self._run, self._draw = run, random.Random(seed)
        self.met: dict[str, list[bool]] = {moment: [] for moment in MOMENTS}
        self.sent: dict[str, int] = {}

    def plan(self, count: int) -> list[str]:
        """Moments in random order, each as often as the others."""
        moments = [MOMENTS[number % len(MOMENTS)] for number in range(count)]
        self._draw.shuffle(moments)
        return moments

    def strike(self, moment: str, attempt: Attempt) -> None:
        name = self._draw.choice(("SIGKILL", "SIGKILL", "SIGTERM"))
        whom = self._draw.choice(("one rank", "one rank", "all ranks", "everything"))
        met = self._wait_for(moment, attempt)
        pids = attempt.pids()
        targets = {"one rank": [self._draw.choice(pids)] if pids else [], "all ranks": pids}.get(
            whom, [attempt.agent, *pids]
        )
        for pid in targets:
            _send(pid, signal.Signals[name])
        self.met[moment].append(met)
        kind = f"{name} to {whom}"
        self.sent[kind] = self.sent.get(kind, 0) + 1
        end = time.monotonic() + LIMIT
        while attempt.alive() and name == "SIGKILL" and whom == "everything" and time.monotonic() < end:
            time.sleep(0.01)

    def _wait_for(self, moment: str, attempt: Attempt) -> bool:
        """Wait; whether the moment was there when the wait was over."""
        if moment == "start":
            _until(lambda: len(attempt.pids()) == RANKS, attempt)
            time.sleep(self._draw.uniform(0, 1.0))
            return attempt.alive()
        if moment == "first step":
            _until(lambda: any(attempt.marks.glob("first-*")), attempt)
            time.sleep(self._draw.uniform(0, 0.03))
            return any(attempt.marks.glob("first-*"))
        if moment == "between":
            _until(lambda: any(attempt.marks.glob("first-*")), attempt)
            time.sleep(self._draw.uniform(0.1, 1.5))
            return attempt.alive()
        if moment == "data":
            for _ in range(self._draw.randint(1, 10)):
                _until(lambda: any(attempt.marks.glob("data-*")), attempt)
                time.sleep(self._draw.uniform(0, 0.004))
            return any(attempt.marks.glob("data-*"))
        there = partial(IN_SAVE[moment], attempt.marks)
        for _ in range(self._draw.randint(1, 2)):  # in the first save of this attempt, or the second
            _until(lambda: not there(), attempt)
            _until(there, attempt)
        time.sleep(self._draw.uniform(0, 0.01))
        return there()


def _saves(marks: Path, sign: str) -> set[str]:
    """Steps of which some rank has left that ``sign``."""
    return {path.name.split("-")[1] for path in marks.glob(f"{sign}-*")}


IN_SAVE: dict[str, Callable[[Path], bool]] = {
    "writing": lambda marks: bool(_saves(marks, "writing")),
    "between ranks' files": lambda marks: bool(_saves(marks, "writing") & _saves(marks, "written")),
    "commit": lambda marks: bool(_saves(marks, "commit")),
}
"""Whether a checkpoint is at that moment: a file is being written; one is whole and another not; rank 0 commits."""


def _until(condition: Callable[[], bool], attempt: Attempt) -> None:
    end = time.monotonic() + LIMIT
    while not condition() and attempt.alive():
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.001)


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def differences(run: Run, other: Run) -> Iterator[str]:
    """One sentence for each way in which two finished runs are not the same: packs, steps, weights."""
    for rank, (mine, theirs) in enumerate(zip(run.read, other.read, strict=True)):
        if mine != theirs:
            first = next((n for n, pair in enumerate(zip(mine, theirs, strict=False)) if pair[0] != pair[1]), -1)
            yield f"rank {rank} read other packs from step {first + 1} on ({len(mine)} and {len(theirs)} steps)"
    for each in (run, other):
        numbers = [number for rank in (0, 2) for packs in each.read[rank] for number, _ in packs]
        if sorted(numbers) != list(range(len(numbers))):
            yield f"{each.folder.name}: packs twice or missing among {len(numbers)}"
        if each.read[0] != each.read[1] or each.read[2] != each.read[3]:
            yield f"{each.folder.name}: ranks of one replica read different packs"
    if _steps(run) != _steps(other):
        yield "the steps of metrics.jsonl differ"
    mine, theirs = _state(run), _state(other)
    if mine.keys() != theirs.keys():
        yield "the checkpoints hold other tensors"
    different = [name for name in mine if name in theirs and not torch.equal(mine[name], theirs[name])]
    if different:
        yield f"{len(different)} of {len(mine)} tensors differ, first {different[0]}"


def _steps(run: Run) -> list[dict[str, Any]]:
    """The metrics of all steps, but for what a clock measured."""
    clocks = ("seconds", "data_seconds", "mfu")
    rows = [json.loads(line) for line in (run.folder / "out/first/metrics.jsonl").open()]
    return [{name: value for name, value in row.items() if name not in clocks} for row in rows]


def _state(run: Run) -> dict[str, Tensor]:
    """Every tensor of the last checkpoint, optimizer state included."""
    state: dict[str, Any] = {}
    reader = FileSystemReader(committed_checkpoints(run.checkpoints)[-1])
    _load_state_dict(state, reader, planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}
