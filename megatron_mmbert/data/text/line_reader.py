"""The two formats of lines, ``.jsonl`` and ``.txt``, plain or compressed: reading the lines, and parsing one.

A few kilobytes can unpack to gigabytes without a line end. So a line is read up to a limit; a longer one is passed over
in blocks and reported, and memory stays bounded whatever the file claims to be.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from megatron_mmbert.data.text.records import (
    SKIP_REMEDY,
    BadLine,
    Document,
    Fields,
    Record,
    damaged,
    document_of,
    not_utf8,
    short,
    too_long,
)
from megatron_mmbert.utils.errors import UserError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstandard", ".xz": "xz", ".bz2": "bzip2"}
"""The ending of a compressed file's name, and the compression's name."""

_BOM = b"\xef\xbb\xbf"
_BLOCK = 1 << 20
_XZ_MEMORY = 1 << 30  # four times what `xz -9` needs; a header may ask for 4 GiB


class LineReader:
    """The lines of one file as bytes, with the position in the file on disk (for progress, also of compressed ones)."""

    def __init__(self, path: Path, fields: Fields, max_bytes: int) -> None:
        """``fields``: not asked here, a line is parsed later."""
        self.path = path
        self._max_bytes = max_bytes
        self._raw: BinaryIO | None = None
        self._read = 0

    @property
    def position(self) -> int:
        """Bytes of the file on disk read so far."""
        return self._read if self._raw is None else self._raw.tell()

    def __iter__(self) -> Iterator[tuple[int, Record]]:
        """Yield (line number from 1, line with its end or a report), no byte order mark.

        A report says that the line is too long, or that the compressed stream is damaged after the lines before.

        Raises:
            UserError: the file cannot be opened or read.
        """
        number = 0
        kind = COMPRESSIONS.get(self.path.suffix.lower(), "file")
        try:
            with self.path.open("rb") as self._raw:
                stream = unpack(self._raw, self.path.suffix.lower(), self.path)
                while line := stream.readline(self._max_bytes + 1):
                    number += 1
                    if len(line) > self._max_bytes and not _ends_here(stream, line):
                        yield number, too_long(self.path, number, self._max_bytes)
                    else:
                        yield number, line.removeprefix(_BOM) if number == 1 else line
                self._read = self._raw.tell()
        except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
            yield number + 1, damaged(self.path, f"{kind} after line {number}", error)
        except OSError as error:
            if error.errno is None and kind != "file":  # what bz2 and Arrow's decompressor raise
                yield number + 1, damaged(self.path, f"{kind} after line {number}", error)
                return
            raise UserError(f"{self.path}: cannot be read ({error.strerror or error})") from None
        finally:
            self._raw = None


def parse_jsonl(path: Path, line: int, raw: bytes, fields: Fields) -> Document | BadLine | None:
    """Return the document of a raw ``.jsonl`` line, a JSON object with the text in one field; None if it is blank."""
    text = _text_of(path, line, raw)
    if not isinstance(text, str):
        return text
    document = _parse_json(text.strip(), fields, path.name, line)
    return BadLine(str(path), line, f"{document}; {SKIP_REMEDY}") if isinstance(document, str) else document


def parse_text_line(path: Path, line: int, raw: bytes, fields: Fields) -> Document | BadLine | None:
    """Return the document of a raw ``.txt`` line, which is a document by itself; None if it is blank."""
    text = _text_of(path, line, raw)
    return Document(f"{path.name}:{line}", text.rstrip("\r\n"), line) if isinstance(text, str) else text


def arrow(path: Path) -> ModuleType:
    """Return the package ``pyarrow``, imported late: it is optional, and most corpora need none of it.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError:
        raise UserError(f"{path}: reading this kind of file needs pyarrow; run `pip install pyarrow`") from None
    return pyarrow


def unpack(raw: BinaryIO, suffix: str, path: Path) -> Any:
    """Return a buffered stream of a file's content, compressed as ``suffix`` says; ``path`` is for messages."""
    if suffix == ".gz":
        return io.BufferedReader(_Unzipped(gzip.GzipFile(fileobj=raw)), _BLOCK)
    if suffix == ".zst":
        # Arrow's reader, unlike others, tells a stream that was cut from one that ended.
        pa = arrow(path)
        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd"), _BLOCK)
    if suffix == ".xz":
        return io.BufferedReader(_Streams(raw, partial(lzma.LZMADecompressor, memlimit=_XZ_MEMORY)), _BLOCK)
    if suffix == ".bz2":
        return io.BufferedReader(_Streams(raw, bz2.BZ2Decompressor), _BLOCK)
    return raw


class _Unzipped(io.RawIOBase):
    """The content of a gzip file; at its damage, Python's own reader loses up to a block of what comes before."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._file.read1(len(buffer))
        buffer[: len(content)] = content
        return len(content)


class _Streams(io.RawIOBase):
    """The content of compressed streams end to end; Python's own readers pass over damage after the first one."""

    def __init__(self, raw: BinaryIO, make: Callable[[], Any]) -> None:
        self._raw = raw
        self._make = make
        self._decompressor: Any = make()
        self._fresh = True  # nothing of the present stream was read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = b""
        while not content:
            packed = b""
            if self._decompressor.eof:
                packed = self._decompressor.unused_data.lstrip(b"\0")  # xz may be padded
                self._decompressor, self._fresh = self._make(), True
            if not packed and self._decompressor.needs_input:
                packed = self._raw.read(_BLOCK)
            if not packed and self._decompressor.needs_input:
                if self._fresh:
                    return 0
                raise EOFError("it ends before its end marker")
            self._fresh = False
            content = self._decompressor.decompress(packed, len(buffer))
        buffer[: len(content)] = content
        return len(content)


def _ends_here(stream: Any, line: bytes) -> bool:
    """Tell if a line one byte over the limit is over only by its end; if not, pass over the remainder of it."""
    if line.endswith(b"\n"):
        return True
    while block := stream.readline(_BLOCK):
        if block.endswith(b"\n"):
            break
    return False


def _text_of(path: Path, line: int, raw: bytes) -> str | BadLine | None:
    """Decode a raw line; None if it is nothing but white space."""
    if not raw.strip():
        return None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return not_utf8(path, line, raw, error.start)
    return text if text.strip() else None  # white space that is not ASCII


def _parse_json(text: str, fields: Fields, file_name: str, line: int) -> Document | str:
    """Return the document of a ``.jsonl`` line, or the reason why it holds none."""
    try:
        record: Any = json.loads(text)
    except json.JSONDecodeError as error:
        return f"malformed JSON ({error.msg}, column {error.colno}) in {short(text)}"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a thousand brackets
        return f"malformed JSON ({error}) in {short(text)}"
    return document_of(record, fields, file_name, line)
