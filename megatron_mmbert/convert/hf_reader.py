"""The tensors of a Hugging Face model folder: safetensors, or the pickles of old, one file or shards.

A pickle is opened by torch's weights-only reader, which builds tensors and refuses everything else.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import read_json

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)  # what fp32 holds without loss


class _File(Protocol):
    """One file of tensors, read one at a time."""

    def keys(self) -> list[str]: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def load(self, name: str) -> Tensor: ...


class _Safetensors:
    def __init__(self, path: Path) -> None:
        self._handle: Any = safe_open(path, framework="pt")

    def keys(self) -> list[str]:
        return list(self._handle.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._handle.get_slice(name).get_shape())

    def load(self, name: str) -> Tensor:
        return self._handle.get_tensor(name)


class _Pickle:
    def __init__(self, path: Path) -> None:
        self._tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if not isinstance(self._tensors, dict):
            raise ValueError("it holds no named tensors")
        for name, tensor in self._tensors.items():
            if not isinstance(name, str) or not isinstance(tensor, Tensor):
                raise ValueError(f"{name!r} is no tensor")

    def keys(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def load(self, name: str) -> Tensor:
        return self._tensors[name]


class HFTensors:
    """All tensors of a model folder by name.

    Raises:
        UserError: no weights there, a damaged file, or a pickle that holds anything but tensors.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, _File] = {}
        self._file_of = self._find()

    def names(self) -> list[str]:
        return list(self._file_of)

    def where(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self.folder / self._file_of[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._files[self._file_of[name]].shape(name)

    def load(self, name: str) -> Tensor:
        """The tensor in fp32, on the CPU; bf16 and fp16 values are kept exactly.

        Raises:
            UserError: it holds other numbers, or its bytes are damaged.
        """
        with _readable(self.where(name)):
            tensor = self._files[self._file_of[name]].load(name)
        if tensor.dtype not in _FLOATS:
            raise UserError(
                f"{self.where(name)}: {name} is {str(tensor.dtype).removeprefix('torch.')}; "
                "save the model in float32, bfloat16 or float16"
            )
        return tensor.float().contiguous()

    def _find(self) -> dict[str, str]:
        """Tensor name -> file name, of the first kind of file that is there."""
        for file in WEIGHT_FILES:
            if (self.folder / file).is_file():
                return dict.fromkeys(self._open(file).keys(), file)
            index = self.folder / f"{file}.index.json"
            if index.is_file():
                return self._read_index(index)
        raise UserError(f"{self.folder}: neither {' nor '.join(WEIGHT_FILES)} in it; name a folder with weights")

    def _read_index(self, index: Path) -> dict[str, str]:
        values = read_json(index, "shard index", "copy the whole folder again")
        file_of = values.get("weight_map") if isinstance(values, dict) else None
        if not isinstance(file_of, dict) or not file_of:
            raise UserError(f"{index}: no weight_map in it; copy the whole folder again")
        for name, file in file_of.items():
            if not isinstance(file, str) or Path(file).name != file:
                raise UserError(f"{index}: {name} is in {file!r}, which is no file of this folder; copy it again")
            if name not in self._open(file).keys():
                raise UserError(f"{self.folder / file}: lacks {name}, which {index.name} promises; copy it again")
        return dict(file_of)

    def _open(self, file: str) -> _File:
        if file not in self._files:
            path = self.folder / file
            if not path.is_file():
                raise UserError(f"{path}: named in the shard index but missing; copy the whole folder again")
            with _readable(path):
                self._files[file] = _Safetensors(path) if path.suffix == ".safetensors" else _Pickle(path)
        return self._files[file]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Errors of the readers as one sentence."""
    try:
        yield
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: holds more than tensors and might run code, so it was not read; load the model where you trust "
            "it and save_pretrained it, which writes model.safetensors"
        ) from None
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: damaged weights ({reason[:200]}); copy the file again") from None
