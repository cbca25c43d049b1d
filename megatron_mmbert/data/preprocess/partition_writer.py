"""Tokenized documents on disk in the order they came: the state of a preprocessing that can be killed at any time.

A partition is three growing files and a journal. Documents are appended to ``ids.bin`` and ``rows.bin``, runs of them
that are of one language to ``runs.bin``; when an input file is finished, a line of the journal says how far all three
reach. A command that finds an unfinished partition cuts the files back to the last line that still holds and resumes
with the next input file. Finished, it has ``part.json`` and is read one language after another, so that a store can be
cut from one partition or from many (``merge_partitions.py``). The number of files does not depend on the number of
languages.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from megatron_mmbert.data.store.manifest import PARTITION_NAME
from megatron_mmbert.data.store.tokenized_documents import TokenizedDocuments
from megatron_mmbert.data.text.inputs.codes import check_spellings
from megatron_mmbert.data.text.records import SkippedLines
from megatron_mmbert.utils.files import to_json, write_json

SKIPPED_NAME = "skipped.jsonl"
FORMAT = "megatron_mmbert part of a token store"
VERSION = 1
RUN = np.dtype([("language", "<i4"), ("documents", "<i8"), ("tokens", "<i8")])
IDS_NAME, ROWS_NAME, RUNS_NAME, JOURNAL_NAME = FILES = ("ids.bin", "rows.bin", "runs.bin", "journal.jsonl")
_BUFFER_BYTES = 32 << 20

InputIdentity = list[Any]
"""The identity of an input file: path, language, size in bytes, time of its last change in ns."""


class PartitionWriter:
    """Makes the partition of ``inputs``, or resumes where it stopped.

    Attributes:
        done: how many of the inputs are finished.
        skipped: bad lines left out so far.
        left_out: documents that did not meet a condition so far.
    """

    # attributes: the partition's files, its state, and what is buffered

    def __init__(self, folder: Path, made_from: dict[str, Any], inputs: Sequence[InputIdentity]) -> None:
        """``made_from``: all that the partition depends on besides its inputs."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._inputs = list(inputs)
        self._header = {"format": FORMAT, "version": VERSION, "made_from": made_from}
        self._languages: dict[str, int] = {}
        self._named = 0  # languages that are in the journal
        self._buffer: dict[str, list[TokenizedDocuments]] = {}
        self._buffered = 0
        self._spellings: dict[str, str] = {}
        self.done = self.left_out = 0
        journal_bytes, sizes, skipped = self._restore()
        check_spellings(self._languages, self._spellings)
        self._files = {name: _open_cut(folder / name, size) for name, size in sizes.items()}
        self._journal = _open_cut(folder / JOURNAL_NAME, journal_bytes)
        self._record = (folder / SKIPPED_NAME).open("a", encoding="utf-8")
        self.skipped = SkippedLines(self._record, skipped)
        (folder / PARTITION_NAME).unlink(missing_ok=True)
        if not journal_bytes:
            self._write_line(self._header)

    def add(self, documents: TokenizedDocuments) -> None:
        """Append documents of the input file in work.

        Raises:
            UserError: their language is known by another spelling.
        """
        check_spellings([documents.language], self._spellings)
        self._buffer.setdefault(documents.language, []).append(documents)
        self._buffered += documents.ids.nbytes + documents.rows.nbytes
        if self._buffered >= _BUFFER_BYTES:
            self._flush()

    def finish_file(self) -> None:
        """Finish the input file in work: a kill from here on does not undo it."""
        self._flush()
        self._record.flush()
        names = list(self._languages)
        self._write_line(
            {
                "input": self._inputs[self.done],
                "sizes": {name: file.tell() for name, file in self._files.items()},
                "skipped": [self.skipped.count, os.fstat(self._record.fileno()).st_size],
                "languages": names[self._named :],
            }
            | self._left_out()
        )
        self._named = len(names)
        self.done += 1

    def finish(self, about: dict[str, Any]) -> None:
        """Finish the partition, all its inputs finished; ``about`` is added to ``part.json``."""
        assert self.done == len(self._inputs)
        sizes = {}
        for name, file in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            sizes[name] = file.tell()
        self.close()
        value = {
            **self._header,
            "inputs": self._inputs,
            "languages": list(self._languages),
            "skipped_lines": self.skipped.count,
            "sizes": sizes,
        }
        write_json(self._folder / PARTITION_NAME, value | self._left_out() | about)

    def close(self) -> None:
        """Close the files."""
        files: list[IO[Any]] = [*self._files.values(), self._journal, self._record]
        for file in files:
            file.close()

    def _left_out(self) -> dict[str, int]:
        """Return the record of the documents left out: none, as before there were conditions, if there are none."""
        return {"left_out": self.left_out} if self.left_out else {}

    def _flush(self) -> None:
        """Write the buffered documents, those of a language together."""
        runs = []
        for language, buffered in self._buffer.items():
            for documents in buffered:
                self._files[IDS_NAME].write(documents.ids.data)
                self._files[ROWS_NAME].write(documents.rows.tobytes())
            index = self._languages.setdefault(language, len(self._languages))
            count = sum(documents.rows.size for documents in buffered)
            runs.append((index, count, sum(documents.ids.size for documents in buffered)))
        self._files[RUNS_NAME].write(np.array(runs, RUN).tobytes())
        for file in self._files.values():
            file.flush()
        self._buffer, self._buffered = {}, 0

    def _write_line(self, value: dict[str, Any]) -> None:
        self._journal.write(to_json(value).encode() + b"\n")
        self._journal.flush()

    def _restore(self) -> tuple[int, dict[str, int], int]:
        """Read the journal as far as it holds: (its bytes, sizes of the files, skipped lines). Sets what is done."""
        valid: tuple[int, dict[str, int], int] = (0, dict.fromkeys(FILES[:3], 0), 0)
        skipped = self._folder / SKIPPED_NAME
        skipped.touch()
        if not (self._folder / JOURNAL_NAME).exists():
            return valid
        skipped_bytes = 0
        with (self._folder / JOURNAL_NAME).open("rb") as journal:
            for line in journal:
                value = _parse(line)
                if journal.tell() == len(line):
                    if value != self._header:
                        break
                    valid = (len(line), *valid[1:])
                    continue
                if value is None or not self._still_holds(value):
                    break
                for language in value["languages"]:
                    self._languages[language] = len(self._languages)
                self.done += 1
                skipped_bytes = value["skipped"][1]
                self.left_out = value.get("left_out", 0)
                valid = (valid[0] + len(line), value["sizes"], value["skipped"][0])
        self._named = len(self._languages)
        os.truncate(skipped, skipped_bytes)
        return valid

    def _still_holds(self, line: dict[str, Any]) -> bool:
        """Tell if a line of the journal is of the input that is to come, and its documents are there."""
        if self.done >= len(self._inputs) or line["input"] != self._inputs[self.done]:
            return False
        wanted = line["sizes"] | {SKIPPED_NAME: line["skipped"][1]}
        return all(_size(self._folder / name) >= size for name, size in wanted.items())


def _parse(line: bytes) -> dict[str, Any] | None:
    """Parse a line of the journal; None if it was not written to its end."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and line.endswith(b"\n") else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _open_cut(path: Path, size: int) -> BinaryIO:
    """Cut ``path`` to ``size`` bytes and open it for appending."""
    file = path.open("r+b" if path.exists() else "x+b")
    file.truncate(size)
    file.seek(size)
    return file
