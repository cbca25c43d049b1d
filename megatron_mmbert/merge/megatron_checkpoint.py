"""Checkpoints of this project as sources of a merge: any layout saved them, whole tensors come out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from megatron_mmbert.checkpoint.commit import finalize
from megatron_mmbert.checkpoint.discovery import resolve
from megatron_mmbert.checkpoint.metadata import META_FILE
from megatron_mmbert.checkpoint.phase_transition import history_of


def is_megatron_checkpoint(path: Path) -> bool:
    """Whether ``path`` is a checkpoint, or a phase's folder that holds checkpoints."""
    return (path / META_FILE).is_file() or (path / "checkpoints").is_dir()


class MegatronCheckpoint:
    """A checkpoint folder, or the newest sound checkpoint of a phase's folder.

    Raises:
        UserError: no sound checkpoint there.
    """

    def __init__(self, path: Path) -> None:
        from megatron_mmbert import parallel

        self.path = resolve(path)
        parallel.start()  # Megatron-Core's checkpoint reader wants a process group, if only of one
        from megatron_mmbert.checkpoint.tensor_reader import CheckpointTensors

        self._tensors = CheckpointTensors(self.path)

    def names(self) -> list[str]:
        """Names of all tensors, the tied table once."""
        return self._tensors.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """The logical shape."""
        return self._tensors.shape(name)

    def load(self, name: str) -> Tensor:
        """The logical tensor, fp32."""
        return self._tensors.load(name)

    def write_like(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """A weights-only checkpoint; its clocks are at the start, as no phase made it."""
        from megatron_mmbert.checkpoint.tensor_reader import fill_folder

        meta = self._tensors.meta.model_copy(
            update={
                "phase": "merged",
                "step": 0,
                "phase_tokens": 0,
                "loader": {},
                "replay": None,
                "history": history_of(self._tensors.meta),
                "has_optimizer": False,
                "finished": True,
                "origin": "merged; see merge_report.json",
            }
        )
        fill_folder(folder, meta, tensors)
        finalize(folder)
