"""Reader of the tensors of a Hugging Face model folder: safetensors, or older pickles, in one file or in shards.

A pickle is opened by torch's weights-only reader, which builds tensors and refuses everything else.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from megatron_mmbert.convert.hf_writer import WEIGHTS
from megatron_mmbert.utils.checksums import CHECKSUM_FILE, file_problem, read_checksums
from megatron_mmbert.utils.errors import UserError, first_line
from megatron_mmbert.utils.files import read_json
from megatron_mmbert.utils.finite import check_finite

PICKLED_WEIGHTS = "pytorch_model.bin"
_PICKLES = ("*.bin", "*.pt", "*.pth")
_BEFORE_2020 = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first bytes of what torch.save wrote before PyTorch 1.6: a pickled number."""
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)  # what fp32 holds without loss
_CHANGED = f"copy the folder again, or delete {CHECKSUM_FILE} and identity.json there if you saved a new model in it"
_REMEDY = f"load the model where you trust it and save_pretrained it, which writes {WEIGHTS}"


class _File(Protocol):
    """One file of tensors, read one at a time."""

    names: frozenset[str]

    def shape(self, name: str) -> tuple[int, ...]: ...
    def load(self, name: str) -> Tensor: ...


class _Safetensors:
    """A safetensors file. It is mapped for one tensor at a time, so that pages of those read before can be dropped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as file:
            self.names = frozenset(file.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        with self._open() as file:
            return tuple(file.get_slice(name).get_shape())

    def load(self, name: str) -> Tensor:
        with self._open() as file:
            return file.get_tensor(name)

    def _open(self) -> Any:
        return safe_open(self._path, framework="pt")


class _Pickle:
    """A pickle of named tensors, mapped."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            if file.read(len(_BEFORE_2020)) == _BEFORE_2020:
                raise UserError(f"{path}: in PyTorch's file format of before 2020, which is not read; {_REMEDY}")
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no whole file of torch.save")
        self._tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if not isinstance(self._tensors, dict):
            raise ValueError("it holds no named tensors")
        for name, tensor in self._tensors.items():
            if not isinstance(name, str) or not isinstance(tensor, Tensor):
                raise ValueError(f"{name!r} is no tensor")
        self.names = frozenset(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def load(self, name: str) -> Tensor:
        return self._tensors[name]


class HFTensors:
    """All tensors of a model folder by name.

    Args:
        pickles: whether ``pytorch_model.bin`` is read where there are no safetensors.

    Raises:
        UserError: no weights there, a corrupt file, or a pickle that holds anything but tensors.
    """

    def __init__(self, folder: Path, pickles: bool = True) -> None:
        self.folder = folder
        self._kinds = (WEIGHTS, PICKLED_WEIGHTS) if pickles else (WEIGHTS,)
        self._files: dict[str, _File] = {}
        self._checksums = read_checksums(folder, _CHANGED) if (folder / CHECKSUM_FILE).is_file() else None
        self._file_of = self._find()

    def verify(self, progress: Callable[[int], None] = lambda done: None) -> None:
        """Compare the files of weights with the checksums of the export, if it has them; reads them whole.

        Args:
            progress: called with the bytes of each file after it has been read.

        Raises:
            UserError: a file is not as it was written.
        """
        for file in self._files:
            self._check(file, whole=True)
            progress((self.folder / file).stat().st_size)

    @property
    def listed_files(self) -> frozenset[str]:
        """The names of the files that the export has checksums of; none where it has no list of them."""
        return frozenset(self._checksums or ())

    def check_file(self, name: str) -> None:
        """Compare a file that holds no weights with its checksum, if the export has one of it.

        Raises:
            UserError: it is not as it was written.
        """
        if self._checksums is not None and name in self._checksums:
            self._check(name, whole=True)

    def _check(self, file: str, whole: bool) -> None:
        if self._checksums is not None:
            problem = file_problem(self.folder, file, self._checksums, _CHANGED, whole)
            if problem:
                raise UserError(problem)

    def names(self) -> list[str]:
        """Return the names of all tensors, sorted within each file."""
        return list(self._file_of)

    def path_of(self, name: str) -> Path:
        """Return the file that holds a tensor."""
        return self.folder / self._file_of[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading its values."""
        with _readable(self.path_of(name)):
            return self._files[self._file_of[name]].shape(name)

    def load_as_stored(self, name: str) -> Tensor:
        """Return a tensor on the CPU in the precision it is stored in.

        Raises:
            UserError: its bytes are corrupt, or it is not finite.
        """
        with _readable(self.path_of(name)):
            tensor = self._files[self._file_of[name]].load(name)
        return check_finite(tensor, name, self.path_of(name), "take another model")

    def load(self, name: str) -> Tensor:
        """Return a tensor in fp32 on the CPU; bf16 and fp16 values are kept exactly.

        Raises:
            UserError: it holds other numbers, or its bytes are corrupt.
        """
        tensor = self.load_as_stored(name)
        if tensor.dtype not in _FLOATS:
            raise UserError(
                f"{self.path_of(name)}: {name} is {str(tensor.dtype).removeprefix('torch.')}; "
                "save the model in float32, bfloat16 or float16"
            )
        return tensor.float().contiguous()

    def _find(self) -> dict[str, str]:
        """Return the file of each tensor, for the first kind of file that is there."""
        for file in self._kinds:
            if (self.folder / file).is_file():
                return dict.fromkeys(sorted(self._open(file).names), file)
            index = self.folder / f"{file}.index.json"
            if index.is_file():
                return self._read_index(index)
        for unread in sorted(path for pattern in _PICKLES for path in self.folder.glob(pattern)):
            raise UserError(f"{unread}: a pickle may run code when it is opened, so it is not read; {_REMEDY}")
        raise UserError(f"{self.folder}: neither {' nor '.join(self._kinds)} in it; name a folder with weights")

    def _read_index(self, index: Path) -> dict[str, str]:
        self._check(index.name, whole=True)
        values = read_json(index, "shard index", "copy the whole folder again")
        file_of = values.get("weight_map") if isinstance(values, dict) else None
        if not isinstance(file_of, dict) or not file_of:
            raise UserError(f"{index}: no weight_map in it; copy the whole folder again")
        for name, file in file_of.items():
            if not isinstance(file, str) or Path(file).name != file:
                raise UserError(f"{index}: {name} is in {file!r}, which is not a file of this folder; copy it again")
            if name not in self._open(file).names:
                raise UserError(f"{self.folder / file}: lacks {name}, which {index.name} promises; copy it again")
        return dict(file_of)

    def _open(self, file: str) -> _File:
        if file not in self._files:
            path = self.folder / file
            if not path.is_file():
                raise UserError(f"{path}: named in the shard index but missing; copy the whole folder again")
            self._check(file, whole=False)
            with _readable(path):
                self._files[file] = _Safetensors(path) if path.suffix == ".safetensors" else _Pickle(path)
        return self._files[file]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn errors of the libraries into one sentence."""
    try:
        yield
    except pickle.UnpicklingError:
        raise UserError(f"{path}: holds more than tensors and might run code, so it was not read; {_REMEDY}") from None
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise UserError(f"{path}: damaged weights ({first_line(error)}); copy the file again") from None
