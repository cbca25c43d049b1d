"""The lines of a file, plain or compressed, never holding more of one than allowed.

A few kilobytes can unpack to gigabytes without a line end. So a line is read up to a limit; one that goes on is passed
over in blocks and reported, and memory stays bounded whatever the file claims to be.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from megatron_mmbert.data.text.records import MAX_LINE_BYTES, Record, too_long
from megatron_mmbert.utils.errors import UserError

COMPRESSIONS = (".gz", ".zst")
_BOM = b"\xef\xbb\xbf"
_BLOCK = 1 << 20


class LineReader:
    """The lines of one file as bytes, with the position in the file on disk (for progress, also of compressed ones)."""

    def __init__(self, path: Path, most: int = MAX_LINE_BYTES) -> None:
        self.path = path
        self._most = most
        self._raw: BinaryIO | None = None
        self._read = 0

    @property
    def position(self) -> int:
        """Bytes of the file on disk read so far."""
        return self._read if self._raw is None else self._raw.tell()

    def __iter__(self) -> Iterator[tuple[int, Record]]:
        """(line number from 1, line with its end or that it is too long), a byte order mark removed.

        Raises:
            UserError: the file cannot be opened, or its compressed stream is damaged.
        """
        number = 0
        kind = {".gz": "gzip", ".zst": "zstandard"}.get(self.path.suffix, "file")
        try:
            with self.path.open("rb") as self._raw:
                stream = _unpack(self._raw, self.path)
                while line := stream.readline(self._most + 1):
                    number += 1
                    if len(line) > self._most and not _ends_here(stream, line):
                        yield number, too_long(self.path, number, self._most)
                    else:
                        yield number, line.removeprefix(_BOM) if number == 1 else line
                self._read = self._raw.tell()
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{self.path}: damaged {kind} after line {number} ({error}); copy it again") from None
        except OSError as error:
            if error.errno is None and kind != "file":  # what Arrow's decompressor raises
                reason = str(error).splitlines()[0] if str(error) else "unknown"
                raise UserError(f"{self.path}: damaged {kind} after line {number} ({reason}); copy it again") from None
            raise UserError(f"{self.path}: cannot be read ({error.strerror or error})") from None
        finally:
            self._raw = None


def arrow(path: Path) -> ModuleType:
    """The package ``pyarrow``, imported late: most corpora need none of it.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError:
        raise UserError(f"{path}: reading this kind of file needs pyarrow; run `pip install pyarrow`") from None
    return pyarrow


def _unpack(raw: BinaryIO, path: Path) -> Any:
    """A buffered stream of the file's content."""
    if path.suffix == ".gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=raw), _BLOCK)  # type: ignore[arg-type]
    if path.suffix == ".zst":
        # Arrow's reader, unlike others, tells a stream that was cut from one that ended.
        pa = arrow(path)
        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd"), _BLOCK)
    return raw


def _ends_here(stream: Any, line: bytes) -> bool:
    """Whether a line one byte over the limit is over only by its end; if not, pass over the rest of it."""
    if line.endswith(b"\n"):
        return True
    while rest := stream.readline(_BLOCK):
        if rest.endswith(b"\n"):
            break
    return False
