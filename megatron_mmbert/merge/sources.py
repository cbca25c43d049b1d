"""Where the tensors of a merge come from, and the one place that recognises checkpoint formats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor

from megatron_mmbert.utils.errors import UserError


class TensorSource(Protocol):
    """A checkpoint that is read one tensor at a time, each under ONE name (a tied alias is not listed)."""

    path: Path

    def names(self) -> list[str]:
        """The names of all tensors, in a fixed order."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The logical shape, without reading the tensor."""
        ...

    def load(self, name: str) -> Tensor:
        """The logical tensor, on the CPU, in the precision it is stored in."""
        ...

    def write_like(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write a checkpoint of this format with these tensors, and this source's configuration, into ``folder``."""
        ...


def open_source(path: Path) -> TensorSource:
    """Open a checkpoint of any known format. A new format is added here.

    Raises:
        UserError: nothing there, no known format, or a damaged file.
    """
    from megatron_mmbert.merge.hf_folder import HFFolder, is_hf_folder
    from megatron_mmbert.merge.megatron_checkpoint import MegatronCheckpoint, is_megatron_checkpoint

    if not path.exists():
        raise UserError(f"{path}: no such checkpoint; check the path")
    if is_hf_folder(path):
        return HFFolder(path)
    if is_megatron_checkpoint(path):
        return MegatronCheckpoint(path)
    raise UserError(
        f"{path}: neither a Hugging Face folder (no config.json in it) nor a checkpoint of this project; name the "
        "folder that holds config.json or checkpoint.json"
    )
