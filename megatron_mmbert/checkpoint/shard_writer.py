"""Writing one rank's shards of a checkpoint to the disk, and committing those of all ranks. Runs in a thread.

The format is PyTorch's distributed one as Megatron-Core writes it: each shard of a tensor is a ``torch.save`` in one
file of the rank, at an offset that the table of contents knows. Checksums are computed as the bytes are written.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

import torch
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from torch import Tensor
from torch.distributed.checkpoint.storage import WriteResult

from megatron_mmbert import compat
from megatron_mmbert.checkpoint.commit import finalize
from megatron_mmbert.checkpoint.metadata import CheckpointMeta, write_meta
from megatron_mmbert.checkpoint.save_plan import RankShards
from megatron_mmbert.utils.fault_points import Moment, fault_point
from megatron_mmbert.utils.files import replace_folder
from megatron_mmbert.utils.finite import finite_problem, is_finite

_CHUNK = 1 << 20  # bytes: just hashed, they are still in the cache when they are written
Written = tuple[list[WriteResult], dict[str, dict[str, Any]]]
"""File and offset of each of a rank's shards, and the checksums of its files."""


class Cancelled(Exception):
    """The process ends, and the checkpoint that is being written will not be committed."""


class NotFinite(Exception):
    """A tensor has values that are not finite; no resume could train on from it."""


class HashedFile:
    """A new file, for ``torch.save``; hashed as it is written.

    An error does not leave :meth:`write`, as PyTorch's zip writer would turn it into another; :meth:`check` raises it.

    Args:
        cancelled: when it is set, nothing more is written.

    Attributes:
        is_finite: whether all values so far were; see :meth:`expect`.
    """

    def __init__(self, path: Path, cancelled: threading.Event) -> None:
        self._file = path.open("wb", buffering=_CHUNK)
        self._hash = hashlib.sha256()
        self._cancelled = cancelled
        self._error: Exception | None = None
        self._values, self._values_bytes = torch.empty(0), -1
        self.bytes = 0
        self.is_finite = True

    def expect(self, values: Tensor) -> None:
        """Check these flat values part by part as their bytes are hashed, while they are in the cache."""
        self._values, self._values_bytes = values, values.nbytes

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        is_values = len(view) == self._values_bytes  # else of the zip format, in dozens of small parts a tensor
        for start in range(0, len(view), _CHUNK):
            if self._error is not None:
                break
            try:
                self._put(view[start : start + _CHUNK])
                if is_values:
                    self._check_values(start)
            except (OSError, Cancelled) as error:
                self._error = error
        self.bytes += len(view)
        return len(view)

    def _check_values(self, start: int) -> None:
        size = self._values.element_size()
        self.is_finite &= is_finite(self._values[start // size : (start + _CHUNK) // size])

    def _put(self, part: memoryview) -> None:
        fault_point(Moment.SHARD_WRITE, self._cancelled)
        if self._cancelled.is_set():
            raise Cancelled
        self._hash.update(part)
        self._file.write(part)

    def flush(self) -> None:
        """Do nothing: PyTorch calls it after each tensor."""

    def check(self) -> None:
        """Raise the first error of :meth:`write`, if there was one."""
        if self._error is not None:
            raise self._error

    def finish(self) -> dict[str, Any]:
        """Sync the file to the disk; return its checksum as :func:`.commit.finalize` records it."""
        self.check()
        fault_point(Moment.SHARD_SYNC)
        self._file.flush()
        os.fsync(self._file.fileno())
        return {"bytes": self.bytes, "sha256": self._hash.hexdigest()}

    def close(self) -> None:
        try:
            self._file.close()
        except OSError:
            pass  # after an error the buffer cannot be written either


def write_shards(folder: Path, rank: int, shards: RankShards, cancelled: threading.Event) -> Written:
    """Write this rank's shards into one file in ``folder`` and sync it to the disk; no file if there are none.

    Raises:
        OSError: of the file system.
        NotFinite: of a tensor.
        Cancelled: the process ends.
    """
    if not shards.tensors:
        return [], {}
    name = f"__{rank}_0.distcp"
    offsets = []
    fault_point(Moment.SHARD_BEGIN, folder)
    file = HashedFile(folder / name, cancelled)
    try:
        for item, tensor in shards.whole_tensors():
            start = file.bytes
            file.expect(tensor.view(-1))
            torch.save(tensor, cast(IO[bytes], file))  # of a file it needs write and flush
            file.check()
            if not file.is_finite:
                raise NotFinite(finite_problem(tensor, item.index.fqn))
            size = file.bytes - start
            offsets.append(WriteResult(item.index, size, compat.STORAGE_INFO.get()(name, start, size)))
        checksums = {name: file.finish()}
        fault_point(Moment.SHARD_END, folder)
        return offsets, checksums
    finally:
        file.close()


def commit_shards(
    staging: Path, path: Path, meta: CheckpointMeta, shards: RankShards, written: Sequence[Written]
) -> None:
    """Describe the shards that all ranks have ``written`` into ``staging``, and rename it to ``path``.

    Args:
        shards: those of rank 0.

    Raises:
        OSError: of the file system.
    """
    fault_point(Moment.COMMIT_BEGIN, staging)
    shards.write_table([offsets for offsets, _ in written])
    torch.save(shards.common, staging / "common.pt")
    save_config(CheckpointingConfig("torch_dist"), str(staging))
    write_meta(staging, meta)
    finalize(staging, {name: checksum for _, checksums in written for name, checksum in checksums.items()})
    replace_folder(staging, path)
    fault_point(Moment.COMMIT_END, staging)
