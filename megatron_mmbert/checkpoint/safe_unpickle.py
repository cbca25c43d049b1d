"""Guards with which opening a checkpoint from outside runs none of its code.

PyTorch's distributed checkpoints keep their table of contents in ``.metadata``, a pickle that PyTorch itself reads
without a guard. It is read here first, by an unpickler that knows the classes such a table is made of and refuses all
others; a table that would make PyTorch unpickle further objects, or read files elsewhere, is refused too. Tensors and
``common.pt`` are read by PyTorch with ``weights_only``.
"""

from __future__ import annotations

import io
import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from megatron.core.dist_checkpointing.core import CheckpointingException
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from megatron_mmbert.utils.errors import UserError, first_line

METADATA_FILE = ".metadata"
_ALLOWED = {
    "torch": {"Size"} | {name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.planner": {"SavePlan", "TensorWriteData", "WriteItem", "WriteItemType"},
    "collections": {"OrderedDict"},
}


class _TableOnly(pickle.Unpickler):
    """An unpickler of the classes of a table of contents; any other name is refused before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _ALLOWED.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no table of contents has")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn exceptions of the libraries, as of corrupt files, into one sentence while checkpoint ``path`` is read.

    PyTorch also logs the traceback of a table that it cannot open, before it raises; that is left out.

    Raises:
        UserError: any of it.
    """
    root = logging.getLogger()  # which PyTorch's reader logs to
    root.addFilter(_not_of_the_reader)
    try:
        yield
    except (CheckpointException, CheckpointingException, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: cannot be read ({_innermost(error)}); take another checkpoint") from None
    except (RuntimeError, ValueError, KeyError, EOFError, OSError, AssertionError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path}: cannot be read ({type(error).__name__}: {_innermost(error)}); take another checkpoint"
        ) from None
    finally:
        root.removeFilter(_not_of_the_reader)


def _not_of_the_reader(record: logging.LogRecord) -> bool:
    return record.module != "state_dict_loader"


def _innermost(error: BaseException) -> str:
    """Return the innermost reason; PyTorch's own exception lists them by rank, with their tracebacks."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return first_line(error)


def check_contents(path: Path) -> None:
    """Refuse the checkpoint folder ``path`` unless its table of contents is one and nothing else.

    Raises:
        UserError: no table, a corrupt one, or one that reaches beyond tensors in this folder.
    """
    file = path / METADATA_FILE
    try:
        table = _TableOnly(io.BytesIO(file.read_bytes())).load()
    except FileNotFoundError:
        raise UserError(f"{file}: missing; take another checkpoint") from None
    except Exception as error:  # a corrupt pickle raises nearly anything
        raise UserError(f"{file}: not read ({str(error) or type(error).__name__}); take another checkpoint") from None
    if not isinstance(table, Metadata) or not isinstance(table.state_dict_metadata, dict):
        raise UserError(f"{file}: holds no table of contents; take another checkpoint")
    for name, entry in table.state_dict_metadata.items():
        if not isinstance(entry, TensorStorageMetadata):
            raise UserError(f"{file}: {name!r} is no tensor but a pickled object; take another checkpoint")
    storage = table.storage_data
    for stored in storage.values() if isinstance(storage, dict) else ():
        if len(PurePosixPath(str(stored.relative_path)).parts) != 1 or stored.relative_path == "..":
            raise UserError(f"{file}: names the file {stored.relative_path!r} outside the checkpoint; take another one")
