"""Hugging Face folders as merge sources: safetensors in one file or in shards, never pickles."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import read_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ALIAS, ORIGINAL = "decoder.weight", "model.embeddings.tok_embeddings.weight"  # one tensor under two names when tied
COPIED_SUFFIXES = (".json", ".model", ".txt", ".jinja")  # configuration and tokenizer; no weights, no code
NOT_COPIED = ("trainer_state.json", "merge_report.json", INDEX)


def is_hf_folder(path: Path) -> bool:
    """Whether ``path`` is a folder with a Hugging Face ``config.json``."""
    return (path / "config.json").is_file()


class HFFolder:
    """One Hugging Face model folder. Implements :class:`megatron_mmbert.merge.sources.TensorSource`.

    Raises:
        UserError: no safetensors, an incomplete or damaged folder, or tied tensors that differ.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        config = read_json(path / "config.json", "model configuration", "name a folder made by save_pretrained")
        if not isinstance(config, dict):
            raise UserError(f"{path / 'config.json'}: not a model configuration; name a folder made by save_pretrained")
        self._file_of = self._find_tensors()
        # The default of transformers' ModernBertConfig is tied.
        if config.get("tie_word_embeddings", True) and ALIAS in self._file_of and ORIGINAL in self._file_of:
            self._drop_alias()

    def names(self) -> list[str]:
        return sorted(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        with self._open(self._file_of[name]) as handle:
            return tuple(handle.get_slice(name).get_shape())

    def load(self, name: str) -> Tensor:
        with self._open(self._file_of[name]) as handle:
            return handle.get_tensor(name)

    def write_like(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        for file in sorted(self.path.iterdir()):
            if file.is_file() and file.suffix in COPIED_SUFFIXES and file.name not in NOT_COPIED:
                shutil.copyfile(file, folder / file.name)
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, folder / WEIGHTS, metadata={"format": "pt"})

    def _open(self, file: str) -> Any:
        """A safetensors handle; opening maps the file and reads its header only."""
        try:
            return safe_open(self.path / file, framework="pt")
        except FileNotFoundError:
            raise UserError(f"{self.path / file}: named in {INDEX} but missing; copy the whole folder again") from None
        except (SafetensorError, OSError) as error:
            raise UserError(f"{self.path / file}: damaged safetensors file ({error}); copy it again") from None

    def _find_tensors(self) -> dict[str, str]:
        """Tensor name -> file name."""
        if (self.path / WEIGHTS).is_file():
            with self._open(WEIGHTS) as handle:
                return dict.fromkeys(handle.keys(), WEIGHTS)
        if (self.path / INDEX).is_file():
            return self._read_index()
        for pickle in sorted([*self.path.glob("*.bin"), *self.path.glob("*.pt"), *self.path.glob("*.pth")]):
            raise UserError(
                f"{pickle}: a pickle may run code when it is opened, so it is not read; load the model with "
                f"transformers where you trust it and save_pretrained it, which writes {WEIGHTS}"
            )
        raise UserError(f"{self.path}: neither {WEIGHTS} nor {INDEX} in it; name a folder with safetensors weights")

    def _read_index(self) -> dict[str, str]:
        index = read_json(self.path / INDEX, "shard index", "copy the whole folder again")
        file_of = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(file_of, dict) or not file_of:
            raise UserError(f"{self.path / INDEX}: no weight_map in it; copy the whole folder again")
        for name, file in file_of.items():
            if not isinstance(file, str) or Path(file).name != file:
                raise UserError(f"{self.path / INDEX}: {name} is in {file!r}, which is not a file of this folder")
        for file in sorted(set(file_of.values())):
            with self._open(file) as handle:
                missing = {name for name, where in file_of.items() if where == file} - set(handle.keys())
            if missing:
                raise UserError(f"{self.path / file}: lacks {min(missing)}, which {INDEX} promises; copy it again")
        return dict(file_of)

    def _drop_alias(self) -> None:
        """Keep one name for the tied tensor."""
        if not torch.equal(self.load(ALIAS), self.load(ORIGINAL)):
            raise UserError(
                f"{self.path}: config.json ties {ALIAS} to {ORIGINAL} but the two differ; remove the wrong one, or set "
                "tie_word_embeddings to false in every folder of this merge"
            )
        del self._file_of[ALIAS]
