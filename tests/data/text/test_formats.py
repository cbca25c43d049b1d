"""Parquet and zstandard input, and lines that are longer than allowed."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from support.damaged_text import assert_damage_is_told

from megatron_mmbert.data.text.documents import open_records, parse_record, read_documents
from megatron_mmbert.data.text.records import BadLine, Document, Fields, SkippedLines
from megatron_mmbert.utils.errors import UserError


def compress(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


def rows(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    parquet.write_table(pa.table(columns), path, **options)
    return path


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_zst_holds_the_same_documents(kind: str, tmp_path: Path) -> None:
    lines = [f"line {n}" if kind == "txt" else json.dumps({"text": f"é {n}"}) for n in range(1000)]
    content = "\n".join(lines).encode()
    (tmp_path / f"a.{kind}").write_bytes(content)
    # Two frames end to end are one file, as with gzip.
    (tmp_path / f"b.{kind}.zst").write_bytes(compress(content[:777]) + compress(content[777:]))
    plain, packed = (list(read_documents(tmp_path / name)) for name in (f"a.{kind}", f"b.{kind}.zst"))
    assert [d.text for d in packed] == [d.text for d in plain] and len(plain) == 1000


@pytest.mark.parametrize("ending", ["xz", "bz2", "XZ"])
def test_xz_and_bz2_hold_the_same_documents_and_assert_damage_is_told(ending: str, tmp_path: Path) -> None:
    pack, name = {"xz": (lzma.compress, "xz"), "bz2": (bz2.compress, "bzip2")}[ending.lower()]
    lines = [f"é {n} " + "x" * (n % 300) for n in range(3000)]
    content = "\n".join(lines).encode()
    path = tmp_path / f"a.txt.{ending}"
    path.write_bytes(pack(content[:1777]) + pack(content[1777:]))
    assert [d.text for d in read_documents(path)] == lines
    good = pack(content)
    for damaged in (good[:-9], good + b"xyz", b"plain text", good[:500] + b"?" + good[501:], good + pack(b"y")[:-9]):
        path.write_bytes(damaged)
        assert_damage_is_told(path, rf"damaged {name} after line \d+ \(.+\); copy it again")


@pytest.mark.parametrize("damage", ["cut", "not zst", "trailing"])
def test_damaged_zst_is_told(damage: str, tmp_path: Path) -> None:
    good = compress(b'{"text": "hello"}\n' * 50)
    content = {"cut": good[:-3], "not zst": b'{"text": "x"}\n', "trailing": good + b"xyz"}[damage]
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(content)
    assert_damage_is_told(path, r"a\.jsonl\.zst: damaged zstandard after line \d+ \(.*\); copy it again")


@pytest.mark.parametrize("dictionary", [True, False])
def test_parquet_over_row_groups(dictionary: bool, tmp_path: Path) -> None:
    texts = [f"document {n % 70}" for n in range(500)]
    path = rows(tmp_path / "eng.parquet", {"x": texts, "text": texts}, row_group_size=90, use_dictionary=dictionary)
    documents = list(read_documents(path))
    assert [d.text for d in documents] == texts
    assert [d.id for d in documents[:2]] == ["eng.parquet:1", "eng.parquet:2"]


def test_parquet_ids_languages_and_other_string_types(tmp_path: Path) -> None:
    columns = {
        "id": [1, 2],
        "lang": pa.array(["deu", "fra"]).dictionary_encode(),
        "body": pa.array(["eins", "deux"], pa.large_string()),
    }
    path = rows(tmp_path / "x.parquet", columns)
    fields = Fields("body", "lang")
    found = [parse_record(path, number, record, fields) for number, record in open_records(path, fields)]
    assert found == [Document("1", "eins", 1, "deu"), Document("2", "deux", 2, "fra")]


def bad_text() -> pa.Array:
    offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 1, 2)))
    return pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"a\xff")])


BAD_COLUMNS = {
    "missing": ({"txet": ["a", "b"]}, ": no column 'text' (did you mean 'txet'?)"),
    "number": ({"text": [1, 2]}, ": column 'text' is int64, not a string"),
    "null": ({"text": ["a", None]}, ":2: field 'text' is null"),
    "empty": ({"text": ["a", " "]}, ":2: field 'text' is ' ', without text"),
    "utf-8": ({"text": bad_text()}, ":2: byte 0xff at column 1 is not UTF-8"),
    "no row": ({"text": pa.array([], pa.string())}, ": empty, no documents"),
}


@pytest.mark.parametrize("name", BAD_COLUMNS)
def test_bad_parquet_rows_are_named_or_counted(name: str, tmp_path: Path) -> None:
    columns, expected = BAD_COLUMNS[name]
    path = rows(tmp_path / "eng.parquet", columns)
    with pytest.raises(UserError) as caught:
        list(read_documents(path))
    assert str(caught.value).startswith(f"{path}{expected}")
    skipped = SkippedLines()
    good = list(read_documents(path, skip_bad=skipped))
    assert (len(good), skipped.count) == ((1 if ":2:" in expected else 0), 1)


@pytest.mark.parametrize("content", [b"PAR1 but no table PAR1", b"x"])
def test_damaged_parquet(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    assert_damage_is_told(tmp_path / "a.parquet", r"a\.parquet: damaged parquet after row 0 ")


def test_a_line_is_too_long_by_one_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"12345678\n123456789\n" + b"y" * 3_000_000 + b"\nlast")
    found = list(open_records(path, Fields(), max_bytes=8))
    assert [number for number, _ in found] == [1, 2, 3, 4]
    assert found[0][1] == b"12345678\n" and found[3][1] == b"last"
    for _, bad in found[1:3]:
        assert isinstance(bad, BadLine) and "longer than 8 bytes; raise --max-line-bytes" in bad.reason


BOMB = """
import resource, sys
from pathlib import Path
from megatron_mmbert.data.text.documents import open_records
from megatron_mmbert.data.text.records import Fields
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = list(open_records(Path(sys.argv[1]), Fields(), max_bytes=1 << 20))
print(len(found), type(found[0][1]).__name__, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("kind", ["gz", "zst", "xz", "bz2"])
def test_zip_bomb_in_bounded_memory(kind: str, tmp_path: Path) -> None:
    """300 MB without a line end, from a few hundred kilobytes, in a process of its own to measure its memory."""
    path = tmp_path / f"bomb.jsonl.{kind}"
    block = b" " * (100 << 20)
    pack = {"gz": partial(gzip.compress, compresslevel=1), "zst": compress, "xz": lzma.compress, "bz2": bz2.compress}
    path.write_bytes(pack[kind](block[: (20 << 20) if kind in ("xz", "bz2") else None]) * 3)  # these are slow to make
    done = subprocess.run([sys.executable, "-c", BOMB, path], capture_output=True, text=True, check=True)
    lines, what, kilobytes = done.stdout.split()
    assert (lines, what) == ("1", "BadLine") and int(kilobytes) < 80_000
