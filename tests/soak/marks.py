"""What a rank of the soak shows of itself: where it is, for whoever wants to kill it there, and what it has read.

- ``MARKS/pid-RANK`` holds its process number;
- ``MARKS/data-RANK`` and ``MARKS/first-RANK`` exist while it loads data, or is in its first step;
- ``RECORDS/ATTEMPT-rank-RANK.jsonl`` has a line for each step: numbers and digests of the packs that it was given.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from megatron_mmbert.data.batch import PackedBatch
from megatron_mmbert.data.loader import PackLoader
from megatron_mmbert.train import loop

_IN_DATA = 0.01  # seconds that loading is drawn out on either side, so that a signal can meet it


def install(order: dict[str, Any]) -> None:
    rank, marks = os.environ["RANK"], Path(order["marks"])
    (marks / f"pid-{rank}").write_text(str(os.getpid()))
    _watch_data(marks / f"data-{rank}", Path(order["records"]) / f"{order['name']}-rank-{rank}.jsonl")
    _watch_first_step(marks / f"first-{rank}")


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


def _digest(pack: PackedBatch) -> str:
    """Of the samples, their masks and their targets."""
    digest = hashlib.sha256()
    for tensor in (pack.tokens_T, pack.cu_seqlens, pack.masked_index_K, pack.label_K):
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]
