"""Whole tensors of a checkpoint, read one at a time whatever layout saved it, and checkpoints written from them.

Conversion and merging work on these: a name, a shape, a tensor. The layout that trained the model does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import ShardedTensor
from torch import Tensor

from megatron_mmbert.checkpoint.commit import committed_checkpoint
from megatron_mmbert.checkpoint.metadata import CheckpointMeta, read_meta, write_meta
from megatron_mmbert.checkpoint.optimizer_state import MASTER, key_of
from megatron_mmbert.checkpoint.safe_unpickle import check_contents, readable
from megatron_mmbert.checkpoint.save_plan import CONTENT
from megatron_mmbert.model.parameter_names import parameter_names
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.finite import check_finite


class CheckpointTensors:
    """The weights in a checkpoint folder, read tensor by tensor.

    Needs a running process group (``megatron_mmbert.parallel.start()``), of any size.

    Raises:
        UserError: the folder is no checkpoint, or lacks one of the encoder's tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.meta = read_meta(path)
        check_contents(path)
        with readable(path):
            stored = dist_checkpointing.load_tensors_metadata(str(path))
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._stored_as: dict[str, str] = {}
        for name in parameter_names(self.meta.model.num_layers):
            if name not in stored:
                raise UserError(f"{path}: tensor {name!r} is missing; take another checkpoint")
            self._shapes[name] = tuple(stored[name].global_shape)
            self._stored_as[name] = master if (master := key_of(MASTER, name)) in stored else name

    def names(self) -> list[str]:
        """Return the names of all weights, the tied word embedding once."""
        return list(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a whole tensor."""
        return self._shapes[name]

    def load(self, name: str) -> Tensor:
        """Return the whole tensor in fp32: of a bf16 run the optimizer's master weight, if its state is stored.

        Raises:
            UserError: it cannot be read, or is not finite.
        """
        empty = torch.empty(self._shapes[name], dtype=torch.float32)
        wanted = {name: ShardedTensor.from_rank_offsets(self._stored_as[name], empty)}
        with readable(self.path):
            found = dist_checkpointing.load(wanted, str(self.path), validate_access_integrity=False)[name]
        return check_finite(found, name, self.path, "take another checkpoint")

    def everything(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, whole tensor) of all that is stored, the optimizer's state too, in the stored precision.

        Raises:
            UserError: one cannot be read.
        """
        with readable(self.path):
            stored = dist_checkpointing.load_tensors_metadata(str(self.path))
        for name, entry in stored.items():
            wanted = {name: ShardedTensor.from_rank_offsets(name, torch.empty(entry.global_shape, dtype=entry.dtype))}
            with readable(self.path):
                found = dist_checkpointing.load(wanted, str(self.path), validate_access_integrity=False)
            yield name, found[name]


def write_tensors(
    path: Path,
    meta: CheckpointMeta,
    tensors: Mapping[str, Tensor],
    inputs: Sequence[Path] = (),
    overwrite: bool = False,
) -> None:
    """Write a weights-only checkpoint from whole tensors; a training run of any layout starts from it.

    Args:
        tensors: every name of :func:`parameter_names`, fp32.
    """
    with committed_checkpoint(path, inputs, overwrite) as folder:
        fill_folder(folder, meta, tensors)


def fill_folder(folder: Path, meta: CheckpointMeta, tensors: Mapping[str, Tensor]) -> None:
    """Write the files of :func:`write_tensors` into an existing folder, which the caller commits.

    Raises:
        UserError: a tensor is not finite.
    """
    for name, tensor in tensors.items():
        check_finite(tensor, name, folder, "nothing was written")
    state = {name: ShardedTensor.from_rank_offsets(name, tensor.contiguous()) for name, tensor in tensors.items()}
    dist_checkpointing.save(state, str(folder), content_metadata=CONTENT)
    write_meta(folder, meta)
