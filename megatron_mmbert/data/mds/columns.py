"""The columns of an MDS shard: which encodings there are, how long their values are, and which one holds the ids.

Source: mosaicml-streaming 0.13, the modules of its `format/mds`; index version 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from megatron_mmbert.utils.errors import UserError, nearest

ID_TYPES = ("uint16", "uint32", "uint64", "int16", "int32", "int64")
"""NumPy names of the types that ids may have."""
TYPE_CODES = {16: "uint16", 17: "int16", 32: "uint32", 33: "int32", 64: "uint64", 65: "int64"}
"""The byte that an array without a type in its encoding begins with, and the type; those of ids."""
PICKLED = "pkl"

_SCALARS = {f"{kind}{bits}": bits // 8 for kind in ("uint", "int") for bits in (8, 16, 32, 64)} | {
    "float16": 2,
    "float32": 4,
    "float64": 8,
    "int": 8,
}
_WITHOUT_SIZE = {
    *("bytes", "str", "ndarray", "str_int", "str_float", "str_decimal", "pil", "jpeg", "jpeg_array", "jpegarray"),
    *("png", "list[pil]", "list[jpeg]", "list[png]", "json", PICKLED),
}
_ARRAY_TYPES = {"uint8", "int8", "float16", "float32", "float64", *ID_TYPES}
_MAX_VALUES = 1 << 30


class ArrayEncoding(NamedTuple):
    """The encoding ``ndarray[:TYPE[:SHAPE]]``; None: each value says its own."""

    type: str | None
    shape: tuple[int, ...] | None


def parse_array(encoding: str) -> ArrayEncoding | None:
    """Return what an encoding of arrays says, None if it is none.

    Raises:
        ValueError: it is one that the format does not have.
    """
    name, *details = encoding.split(":")
    if name != "ndarray":
        return None
    if len(details) > 2 or (details and details[0] not in _ARRAY_TYPES):
        raise ValueError(f"no encoding {encoding!r}")
    shape = None
    if len(details) == 2:
        sizes = details[1].split(",")
        if not all(size.isascii() and size.isdecimal() and 0 < int(size) <= _MAX_VALUES for size in sizes):
            raise ValueError(f"no encoding {encoding!r}")
        shape = tuple(map(int, sizes))
        if math.prod(shape) > _MAX_VALUES:
            raise ValueError(f"encoding {encoding!r} is too large")
    return ArrayEncoding(details[0] if details else None, shape)


def fixed_size(encoding: str) -> int | None:
    """Return the bytes of every value of an encoding; None if each value has its own number.

    Raises:
        ValueError: the format has no such encoding.
    """
    array = parse_array(encoding)
    if array is not None:
        bits = "".join(filter(str.isdigit, array.type or ""))
        return math.prod(array.shape) * int(bits) // 8 if array.shape is not None else None
    if encoding in _SCALARS:
        return _SCALARS[encoding]
    if encoding not in _WITHOUT_SIZE:
        raise ValueError(f"no encoding {encoding!r}")
    return None


@dataclass(frozen=True)
class Columns:
    """The columns of a shard in the order in which a sample has them; ``sizes``: None for those of no fixed size."""

    names: tuple[str, ...]
    encodings: tuple[str, ...]
    sizes: tuple[int | None, ...]

    @property
    def head_bytes(self) -> int:
        """Bytes of the lengths that a sample begins with: a uint32 for each column without a fixed size."""
        return 4 * self.sizes.count(None)

    @property
    def fixed_bytes(self) -> int:
        """Bytes of a sample's values of fixed sizes together."""
        return sum(size or 0 for size in self.sizes)


class IdColumn(NamedTuple):
    """The column with the ids: its place, and how each value of it is written.

    Attributes:
        type: the NumPy name of the ids' type; None: each value begins with its code.
        has_shape: each value has its shape before the ids.
    """

    place: int
    type: str | None
    has_shape: bool


def id_column(columns: Columns, name: str, id_type: str | None, where: str) -> IdColumn:
    """Return the column called ``name``.

    Args:
        id_type: the type of ids in a column of bare bytes.
        where: the file, for messages.

    Raises:
        UserError: there is none, it cannot hold ids, or a column is pickled, which could run code.
    """
    for other, encoding in zip(columns.names, columns.encodings, strict=True):
        if encoding == PICKLED:
            raise UserError(
                f"{where}: column {other!r} is pickled, which can run any code; write the shards without it"
            )
    if name not in columns.names:
        has = ", ".join(map(repr, columns.names))[:80]
        raise UserError(f"{where}: no column {name!r}{nearest(name, columns.names)}, it has {has}; pass --column NAME")
    place = columns.names.index(name)
    encoding = columns.encodings[place]
    if encoding == "bytes":
        if id_type is None:
            raise UserError(f"{where}: column {name!r} is bytes of no type; pass --id-type, such as int64")
        return IdColumn(place, id_type, has_shape=False)
    array = parse_array(encoding)
    if array is None or (array.type is not None and array.type not in ID_TYPES) or len(array.shape or (1,)) != 1:
        raise UserError(f"{where}: column {name!r} is {encoding}, no row of whole numbers; pass --column NAME")
    if id_type is not None:
        raise UserError(f"--id-type {id_type}: is for columns of bytes, and {name!r} in {where} is {encoding}")
    return IdColumn(place, array.type, has_shape=array.shape is None)


def are_plain(values: Sequence[object]) -> bool:
    """Tell if ``values`` are distinct texts."""
    return all(isinstance(value, str) for value in values) and len(set(values)) == len(values)
