"""What a rank of the soak shows of itself: where it is, for whoever wants to kill it there, and what it has read.

- ``MARKS/pid-RANK`` holds its process number;
- ``MARKS/data-RANK`` and ``MARKS/first-RANK`` exist while it loads data, or is in its first step;
- ``MARKS/writing-STEP-RANK`` exists while its thread writes its file of the checkpoint of that step, which is there but
  not whole; ``MARKS/written-STEP-RANK`` from then on; ``MARKS/commit-STEP`` while rank 0's thread commits it;
- ``RECORDS/ATTEMPT-rank-RANK.jsonl`` has a line for each step: numbers and digests of the packs that it was given.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from megatron_mmbert.data.loading.batch import PackedBatch
from megatron_mmbert.utils import fault_points
from megatron_mmbert.utils.fault_points import Moment

_IN_DATA = 0.01  # seconds that loading is drawn out on either side, so that a signal can meet it
_IN_SAVE = 0.03  # and each file of a checkpoint before its last bytes: rank 1's twice as long as rank 0's, and so on


def install(order: dict[str, Any]) -> None:
    rank, marks = os.environ["RANK"], Path(order["marks"])
    (marks / f"pid-{rank}").write_text(str(os.getpid()))
    steps = _Steps(marks, rank, Path(order["records"]) / f"{order['name']}-rank-{rank}.jsonl")
    fault_points.install(Moment.LOADING, steps.loading)
    fault_points.install(Moment.LOADED, steps.loaded)
    fault_points.install(Moment.STEP_END, steps.ended)
    _watch_save(marks, int(rank))


class _Steps:
    """Marks of loading and of the first step, and the record of all packs."""

    def __init__(self, marks: Path, rank: str, record: Path) -> None:
        self._data, self._first, self._record = marks / f"data-{rank}", marks / f"first-{rank}", record
        self._is_first = True

    def loading(self, step: int) -> None:
        self._data.touch()
        time.sleep(_IN_DATA)

    def loaded(self, packs: list[PackedBatch]) -> None:
        with self._record.open("a") as file:
            file.write(json.dumps([[pack.pack_indices[0], _digest(pack)] for pack in packs]) + "\n")
        time.sleep(_IN_DATA)
        self._data.unlink()
        if self._is_first:
            self._first.touch()

    def ended(self) -> None:
        if self._is_first:
            self._first.unlink()
        self._is_first = False


def _watch_save(marks: Path, rank: int) -> None:
    def shard_begins(staging: Path) -> None:
        (marks / f"writing-{_step_of(staging)}-{rank}").touch()

    def shard_ends(staging: Path) -> None:
        step = _step_of(staging)
        (marks / f"writing-{step}-{rank}").rename(marks / f"written-{step}-{rank}")

    def commit_begins(staging: Path) -> None:
        (marks / f"commit-{_step_of(staging)}").touch()
        time.sleep(_IN_SAVE / 2)

    fault_points.install(Moment.SHARD_BEGIN, shard_begins)
    fault_points.install(Moment.SHARD_SYNC, partial(time.sleep, _IN_SAVE * (1 + rank)))
    fault_points.install(Moment.SHARD_END, shard_ends)
    fault_points.install(Moment.COMMIT_BEGIN, commit_begins)
    fault_points.install(Moment.COMMIT_END, lambda staging: (marks / f"commit-{_step_of(staging)}").unlink())


def _step_of(staging: Path) -> str:
    return staging.name.removeprefix(".step-").removesuffix(".tmp")


def _digest(pack: PackedBatch) -> str:
    """Of the samples, their masks and their targets."""
    digest = hashlib.sha256()
    for tensor in (pack.tokens_T, pack.cu_seqlens, pack.masked_index_K, pack.label_K):
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]
