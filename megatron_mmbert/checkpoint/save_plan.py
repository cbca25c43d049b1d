"""This rank's shards of a checkpoint: the tensors that Megatron-Core has it write, and copies of them in host memory.

Planning is Megatron-Core's. Its own asynchronous writer is not used: it forks a process with running threads, and it
gathers the plans of all ranks at every save. Here plans are gathered at the first save, as a run's tensors do not
change their shapes, and the copies lie in buffers that are kept, so that a save costs training one copy in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.storage import WriteResult

from megatron_mmbert import compat
from megatron_mmbert.parallel.runtime import current

_save_preprocess = compat.SAVE_PREPROCESS.get()
_replace_keys = compat.REPLACE_KEYS.get()
_to_torch_state = compat.TO_TORCH_STATE.get()
_plan_save = compat.SAVE_ASYNC_PLAN.get()
_MegatronPlanner = compat.SAVE_PLANNER.get()
_MegatronWriter: Any = compat.ASYNC_WRITER.get()

# Layer 0 has no attention norm, so layers must be stored one by one.
CONTENT = {"non_homogeneous_layers": True}


@dataclass(frozen=True)
class RankShards:
    """Everything that this rank writes.

    Attributes:
        tensors: shards of logical tensors: name and offset, and the values.
        common: all that is no tensor.
        write_table: writes the table of contents, from the file and offset of every rank's shards; on rank 0.
    """

    tensors: list[tuple[WriteItem, Tensor]]
    common: dict[str, Any]
    write_table: Callable[[list[list[WriteResult]]], None]

    @property
    def bytes(self) -> int:
        """Return the bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for _, tensor in self.tensors)

    def whole_tensors(self) -> Iterator[tuple[WriteItem, Tensor]]:
        """Yield each in a host storage of its own: of a view, PyTorch would write the whole storage."""
        for item, tensor in self.tensors:
            held = tensor.detach().cpu()
            is_view = held.untyped_storage().nbytes() != held.numel() * held.element_size()
            yield item, held.clone() if is_view or not held.is_contiguous() else held


class RankSavePlan:
    """Planner of the shards that this rank writes of each of a run's checkpoints.

    Args:
        copies: whether shards are copied, so that training may continue while they are written; the next checkpoint
            overwrites the copies.
    """

    def __init__(self, copies: bool) -> None:
        self._copies = copies
        self._plans: tuple[SavePlan, SavePlan] | None = None
        self._metadata: Metadata | None = None
        self._buffers: list[Tensor] = []

    def shards_of(self, state: dict[str, Any], folder: Path) -> RankShards:
        """Return this rank's shards of ``state``; called by all ranks, each time with tensors of the same shapes.

        Args:
            state: nested, with Megatron-Core's ``ShardedTensor`` as leaves.
            folder: the existing folder that they will be written into.
        """
        first = self._plans is None
        sharded, common = _save_preprocess(state | {"content_metadata": dict(CONTENT)}, first)
        by_key, _, _ = _replace_keys(sharded, True)
        listing = _Listing(folder)
        planned, central, local, _, _ = _plan_save(
            _to_torch_state(by_key, False),
            listing,
            planner=_MegatronPlanner(dedup_replicated_tensors=False, flatten_state_dict=False),
            cached_ckpt_structure=None if self._plans is None else (*self._plans, True),
        )
        if first:
            self._plans, self._metadata = (central, local), planned[1]
        tensors = self._copied(listing.tensors) if self._copies else listing.tensors
        return RankShards(tensors, common, partial(listing.finish, self._metadata))

    def _copied(self, tensors: list[tuple[WriteItem, Tensor]]) -> list[tuple[WriteItem, Tensor]]:
        on_gpu = current().device.type == "cuda"
        if not self._buffers:
            # Page-locked, a GPU's copies do not wait for one another.
            self._buffers = [torch.empty(t.shape, dtype=t.dtype, pin_memory=on_gpu) for _, t in tensors]
        for buffer, (_, tensor) in zip(self._buffers, tensors, strict=True):
            buffer.copy_(tensor, non_blocking=on_gpu)
        if on_gpu:
            torch.cuda.synchronize()
        return [(item, buffer) for (item, _), buffer in zip(tensors, self._buffers, strict=True)]


class _Listing(_MegatronWriter):
    """A writer that lists the shards in place of writing them."""

    tensors: list[tuple[WriteItem, Tensor]]

    def prepare_write_data(self, plan: SavePlan, planner: SavePlanner) -> None:
        found = ((item, planner.resolve_data(item)) for item in plan.items)
        self.tensors = [(item, data) for item, data in found if isinstance(data, Tensor)]  # there is nothing else
