"""Bringing documents in any order of languages into the store's order, on disk.

A store keeps a language together. When the language is a field of the line, documents arrive mixed, and sorting them in
memory does not scale; so their ids are written aside per language and read back one language after another. This costs
the ids once more on disk while the command runs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from megatron_mmbert.data.writer import EncodedDocument

_BLOCK = 1 << 12
_ROW = struct.Struct("<qqq16s")
_COUNTS = np.dtype([("tokens", "<i8"), ("bytes", "<i8"), ("words", "<i8"), ("digest", "S16")])


class LanguageSpill:
    """Per language: all ids end to end, and (tokens, bytes, words, digest) of each document."""

    def __init__(self, folder: Path, dtype: str) -> None:
        self._folder = folder
        self._dtype = np.dtype(dtype)
        self._numbers: dict[str, int] = {}
        folder.mkdir()

    def add_all(self, documents: list[EncodedDocument]) -> None:
        """Append documents. Files are opened for this call only: 1,833 languages would be too many open files."""
        by_language: dict[str, list[EncodedDocument]] = {}
        for document in documents:
            by_language.setdefault(document.language, []).append(document)
        for language, group in by_language.items():
            ids, counts = self._files(language)
            with ids.open("ab") as ids_file, counts.open("ab") as counts_file:
                for document in group:
                    ids_file.write(document.ids.tobytes())
                counts_file.write(b"".join(_ROW.pack(d.ids.size, d.bytes, d.words, d.digest) for d in group))

    def drain(self, write: Callable[[list[EncodedDocument]], None]) -> None:
        """Give all documents to ``write``, languages sorted, and remove the files."""
        for language in sorted(self._numbers):
            ids_path, counts_path = self._files(language)
            counts = np.memmap(counts_path, _COUNTS, mode="r")
            ids = np.memmap(ids_path, self._dtype, mode="r").view(np.ndarray)
            start = 0
            for first in range(0, len(counts), _BLOCK):
                documents = []
                for tokens, size, words, digest in counts[first : first + _BLOCK].tolist():
                    view = ids[start : start + tokens]
                    documents.append(EncodedDocument(language, view, size, words, digest.ljust(16, b"\0")))
                    start += tokens
                write(documents)
            ids_path.unlink()
            counts_path.unlink()
        self._folder.rmdir()

    def _files(self, language: str) -> tuple[Path, Path]:
        number = self._numbers.setdefault(language, len(self._numbers))
        return self._folder / f"{number}.ids", self._folder / f"{number}.counts"
