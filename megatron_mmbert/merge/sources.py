"""The checkpoints of a merge, tensor by tensor, and the one place that recognizes their formats.

A new format is a class like the two here, listed in :data:`FORMATS`.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from megatron_mmbert.checkpoint.commit import finalize
from megatron_mmbert.checkpoint.discovery import resolve
from megatron_mmbert.checkpoint.identity import Identity, of_checkpoint
from megatron_mmbert.checkpoint.metadata import META_FILE
from megatron_mmbert.checkpoint.phase_transition import history_of
from megatron_mmbert.convert.hf_config import CONFIG_FILE, read_config_values
from megatron_mmbert.convert.hf_identity import IDENTITY_FILE, check_folder, identity_of, write_identity
from megatron_mmbert.convert.hf_reader import HFTensors
from megatron_mmbert.convert.hf_writer import INDEX, METADATA, WEIGHTS
from megatron_mmbert.convert.name_mapping import HF_TIED_DECODER, HF_WORD_EMBEDDING
from megatron_mmbert.utils.checksums import CHECKSUM_FILE, write_checksums
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.finite import check_finite
from megatron_mmbert.utils.output_kinds import CHECKPOINT, MODEL_FOLDER
from megatron_mmbert.utils.outputs import OutputKind

COPIED_SUFFIXES = (".json", ".model", ".txt", ".jinja")  # configuration and tokenizer; no weights, no code
NOT_COPIED = ("trainer_state.json", "merge_report.json", IDENTITY_FILE, CHECKSUM_FILE, INDEX)


class TensorSource(Protocol):
    """A checkpoint that is read one tensor at a time, each under ONE name (a tied alias is not listed)."""

    path: Path
    kind: OutputKind
    identity: Identity

    def names(self) -> list[str]:
        """Return the names of all tensors, in a fixed order."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of the whole tensor, without reading it."""
        ...

    def load(self, name: str) -> Tensor:
        """Return the whole tensor, on the CPU, in the precision it is stored in."""
        ...

    def verify(self, allowed: Collection[str]) -> None:
        """Compare the source with what it was when it was written; ``allowed`` values of its identity may differ.

        Raises:
            UserError: it is not the same.
        """
        ...

    def write_like(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write a checkpoint of this format with these tensors, and this source's configuration, into ``folder``."""
        ...

    def finalize(self, folder: Path) -> None:
        """Write the checksums of all files in ``folder``, where :meth:`write_like` and others have written."""
        ...


class HFFolder:
    """A Hugging Face model folder: safetensors in one file or in shards, never pickles.

    Raises:
        UserError: no safetensors, an incomplete or corrupt folder, or tied tensors that differ.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.kind = path, MODEL_FOLDER
        config = read_config_values(path)
        self.identity = identity_of(path)
        self._tensors = HFTensors(path, pickles=False)
        self._names = sorted(self._tensors.names())
        self._fingerprint = ""
        # The default of transformers' ModernBertConfig is tied.
        if config.get("tie_word_embeddings", True) and {HF_TIED_DECODER, HF_WORD_EMBEDDING} <= set(self._names):
            self._drop_alias()

    @staticmethod
    def recognizes(path: Path) -> bool:
        """Return whether ``path`` is a folder with a Hugging Face ``config.json``."""
        return (path / CONFIG_FILE).is_file()

    def names(self) -> list[str]:
        return list(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors.shape(name)

    def load(self, name: str) -> Tensor:
        return self._tensors.load_as_stored(name)

    def verify(self, allowed: Collection[str]) -> None:
        self._fingerprint = next(iter(check_folder(self.path, allowed)), "")
        self._tensors.verify()

    def write_like(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        files = {path.name for path in self.path.iterdir() if path.is_file()} | self._tensors.listed_files
        for name in sorted(files - set(NOT_COPIED)):
            if name.endswith(COPIED_SUFFIXES) and "/" not in name:
                self._tensors.check_file(name)
                shutil.copyfile(self.path / name, folder / name)
        where = folder / WEIGHTS
        contiguous = {name: check_finite(each.contiguous(), name, where) for name, each in tensors.items()}
        save_file(contiguous, where, metadata=METADATA)

    def finalize(self, folder: Path) -> None:
        write_identity(folder, self._fingerprint)
        write_checksums(folder)

    def _drop_alias(self) -> None:
        """Keep one name for the tied tensor."""
        if not torch.equal(self.load(HF_TIED_DECODER), self.load(HF_WORD_EMBEDDING)):
            raise UserError(
                f"{self.path}: config.json ties {HF_TIED_DECODER} to {HF_WORD_EMBEDDING} but the two differ; remove "
                "the wrong one, or set tie_word_embeddings to false in every folder of this merge"
            )
        self._names.remove(HF_TIED_DECODER)


class MegatronCheckpoint:
    """A checkpoint of this project, or the newest valid one of a phase's folder; any layout may have saved it.

    Raises:
        UserError: no valid checkpoint there.
    """

    def __init__(self, path: Path) -> None:
        from megatron_mmbert import parallel

        self.path, self.kind = resolve(path), CHECKPOINT
        parallel.start()  # Megatron-Core's checkpoint reader wants a process group, if only of one
        from megatron_mmbert.checkpoint.tensor_reader import CheckpointTensors

        self._tensors = CheckpointTensors(self.path)
        self.identity = of_checkpoint(self.path, self._tensors.meta)

    @staticmethod
    def recognizes(path: Path) -> bool:
        """Return whether ``path`` is a checkpoint, or a phase's folder that holds checkpoints."""
        return (path / META_FILE).is_file() or (path / "checkpoints").is_dir()

    def names(self) -> list[str]:
        return self._tensors.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors.shape(name)

    def load(self, name: str) -> Tensor:
        """Return the whole tensor in fp32: of a bf16 run the optimizer's master weight, where it is stored."""
        return self._tensors.load(name)

    def verify(self, allowed: Collection[str]) -> None:
        """Do nothing: a checkpoint's files have been compared with its checksums when it was opened."""

    def write_like(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write a weights-only checkpoint; its counters are at the start, as no phase made it."""
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

    def finalize(self, folder: Path) -> None:
        finalize(folder)


FORMATS: tuple[type[HFFolder] | type[MegatronCheckpoint], ...] = (HFFolder, MegatronCheckpoint)


def open_source(path: Path) -> TensorSource:
    """Open a checkpoint of any known format.

    Raises:
        UserError: nothing there, no known format, or a corrupt file.
    """
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint; check the path")
    for source in FORMATS:
        if source.recognizes(path):
            return source(path)
    raise UserError(
        f"{path}: neither a Hugging Face folder (no config.json in it) nor a checkpoint of this project; name the "
        "folder that holds config.json or checkpoint.json"
    )
