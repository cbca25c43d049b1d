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
from pathlib import Path
from typing import Any

from megatron_mmbert.checkpoint import async_saver, shard_writer
from megatron_mmbert.data.loading.batch import PackedBatch
from megatron_mmbert.data.loading.loader import PackLoader
from megatron_mmbert.train import loop

_IN_DATA = 0.01  # seconds that loading is drawn out on either side, so that a signal can meet it
_IN_SAVE = 0.03  # and each file of a checkpoint before its last bytes: rank 1's twice as long as rank 0's, and so on


def install(order: dict[str, Any]) -> None:
    rank, marks = os.environ["RANK"], Path(order["marks"])
    (marks / f"pid-{rank}").write_text(str(os.getpid()))
    _watch_data(marks / f"data-{rank}", Path(order["records"]) / f"{order['name']}-rank-{rank}.jsonl")
    _watch_first_step(marks / f"first-{rank}")
    _watch_save(marks, int(rank))


def _watch_data(mark: Path, record: Path) -> None:
    original = PackLoader.next_packs

    def next_packs(self: PackLoader, count: int) -> list[PackedBatch]:
        mark.touch()
        time.sleep(_IN_DATA)
        packs = original(self, count)
        with record.open("a") as file:
            file.write(json.dumps([[pack.pack_number, _digest(pack)] for pack in packs]) + "\n")
        time.sleep(_IN_DATA)
        mark.unlink()
        return packs

    PackLoader.next_packs = next_packs  # type: ignore[method-assign]


def _watch_first_step(mark: Path) -> None:
    original = loop.training_step

    def first_step(*arguments: Any) -> float:
        mark.touch()
        loss = original(*arguments)
        mark.unlink()
        loop.training_step = original
        return loss

    loop.training_step = first_step


def _watch_save(marks: Path, rank: int) -> None:
    write_share, finish, commit = async_saver.write_share, shard_writer.HashedFile.finish, async_saver.commit

    def slow_finish(self: shard_writer.HashedFile) -> dict[str, Any]:
        time.sleep(_IN_SAVE * (1 + rank))
        return finish(self)

    def marked_share(aside: Path, *arguments: Any) -> shard_writer.Written:
        mark = marks / f"writing-{_step_of(aside)}-{rank}"
        mark.touch()
        written = write_share(aside, *arguments)
        mark.rename(marks / f"written-{_step_of(aside)}-{rank}")
        return written

    def marked_commit(aside: Path, *arguments: Any) -> None:
        mark = marks / f"commit-{_step_of(aside)}"
        mark.touch()
        time.sleep(_IN_SAVE / 2)
        commit(aside, *arguments)
        mark.unlink()

    shard_writer.HashedFile.finish = slow_finish  # type: ignore[method-assign]
    async_saver.write_share, async_saver.commit = marked_share, marked_commit


def _step_of(aside: Path) -> str:
    return aside.name.removeprefix(".step-").removesuffix(".tmp")


def _digest(pack: PackedBatch) -> str:
    """Of the samples, their masks and their targets."""
    digest = hashlib.sha256()
    for tensor in (pack.tokens_T, pack.cu_seqlens, pack.masked_index_K, pack.label_K):
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]
