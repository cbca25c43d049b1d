"""The output of inference: a folder of shards, an index, and a list of the texts; written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from megatron_mmbert.data.text.texts import read_texts
from megatron_mmbert.utils.checksums import write_checksums
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import to_json, write_json
from megatron_mmbert.utils.finite import is_finite
from megatron_mmbert.utils.output_kinds import EMBEDDINGS
from megatron_mmbert.utils.outputs import output_folder

INDEX = "index.json"
ROWS = "rows.jsonl"
"""One JSON object for each row of the shards, in their order: file, line, the record's own id, whether it was cut."""


class RowList:
    """The list of texts, written while they are read; a text is noted before the next one is asked for.

    Attributes:
        files: by file, what ``index.json`` says of it: its first row, its rows, and how many of them were cut.
    """

    def __init__(self, files: Sequence[Path], text_field: str) -> None:
        self.files: list[dict[str, Any]] = []
        self._inputs, self._text_field = files, text_field
        self._out: TextIO | None = None
        self._row: dict[str, Any] | None = None
        self._count = 0

    def texts(self) -> Iterator[str]:
        """Yield the texts of all files."""
        for file in self._inputs:
            self.files.append({"file": str(file), "first_row": self._count, "rows": 0, "cut": 0})
            for text in read_texts(file, self._text_field):
                self._flush()
                self._row = {"file": str(file), "line": text.line}
                if text.id is not None:
                    self._row["id"] = text.id
                self._count += 1
                self.files[-1]["rows"] += 1
                yield text.text
        self._flush()

    def cut(self) -> None:
        """Note that the text given last is longer than the model takes."""
        if self._row is not None:
            self._row["cut"] = True
            self.files[-1]["cut"] += 1

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Write the list to ``path`` while the block reads the texts."""
        with path.open("w", encoding="utf-8") as self._out:
            yield
        self._out = None

    @property
    def cut_texts(self) -> int:
        """The number of texts that were cut."""
        return sum(file["cut"] for file in self.files)

    def _flush(self) -> None:
        if self._row is not None and self._out is not None:
            self._out.write(to_json(self._row, ensure_ascii=False) + "\n")
        self._row = None


def write_shards(
    output: Path,
    parts: Iterable[Tensor],
    form: str,
    about: dict[str, Any],
    overwrite: bool,
    texts: RowList,
    inputs: Sequence[Path] = (),
) -> int:
    """Write one shard per part, in order, ``index.json`` with their rows, and the list of texts; return the rows.

    Args:
        texts: what ``parts`` are computed from, lazily.

    Raises:
        UserError: ``output`` exists and ``overwrite`` is false, or a row is not finite.
    """
    with output_folder(output, EMBEDDINGS, inputs, overwrite) as folder:
        shards: list[dict[str, Any]] = []
        with texts.writing(folder / ROWS):
            for number, part in enumerate(parts):
                _check_rows(part, sum(shard["rows"] for shard in shards))
                name = f"part-{number:05d}.{form}"
                _WRITERS[form](folder / name, part)
                shards.append({"file": name, "rows": len(part)})
        rows = sum(shard["rows"] for shard in shards)
        found = {"rows": rows, "cut_texts": texts.cut_texts, "rows_by_file": texts.files}
        write_json(folder / INDEX, {**about, **found, "shards": shards})
        write_checksums(folder)
    return int(rows)


def _check_rows(part: Tensor, before: int) -> None:
    if is_finite(part):
        return
    row = before + int((~part.isfinite().all(1)).nonzero()[0])
    raise UserError(
        f"text {row + 1}: its row is not finite (NaN or infinity), so nothing was written; compute in --dtype fp32, or "
        "export the model again"
    )


def _write_npy(path: Path, part: Tensor) -> None:
    np.save(path, part.numpy(), allow_pickle=False)


def _write_safetensors(path: Path, part: Tensor) -> None:
    save_file({"rows": part.contiguous()}, path)


def _write_jsonl(path: Path, part: Tensor) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(to_json(row) + "\n" for row in part.tolist())


_WRITERS = {"npy": _write_npy, "safetensors": _write_safetensors, "jsonl": _write_jsonl}
