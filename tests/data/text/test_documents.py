from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pytest
from support.damaged_text import assert_damage_is_told

from megatron_mmbert.data.text.documents import SkippedLines, find_inputs, read_documents
from megatron_mmbert.utils.errors import UserError


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def test_reads_ids_texts_and_lines(tmp_path: Path) -> None:
    content = '\ufeff{"id": "a", "text": "one"}\r\n\n{"id": 7, "text": " two\\nlines "}\n{"text": "three"}'
    documents = list(read_documents(write(tmp_path / "eng_Latn.jsonl", content)))
    assert [(d.id, d.text, d.line) for d in documents] == [
        ("a", "one", 1),
        ("7", " two\nlines ", 3),
        ("eng_Latn.jsonl:4", "three", 4),
    ]


def test_gzip_and_txt_hold_the_same_documents(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.txt", "first line\r\n\u3000\nzweite Zeile \n")
    packed = write(tmp_path / "b.txt.gz", gzip.compress(plain.read_bytes()))
    assert [d.text for d in read_documents(plain)] == ["first line", "zweite Zeile "]
    assert [(d.text, d.line) for d in read_documents(packed)] == [(d.text, d.line) for d in read_documents(plain)]


def test_other_text_field(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"content": "hello"}\n')
    assert [d.text for d in read_documents(path, text_field="content")] == ["hello"]


BAD = {
    "no field": (b'{"txet": "x"}', "no field 'text' (did you mean 'txet'?)"),
    "no field at all": (b"{}", "no field 'text', the line has no field"),
    "number": (b'{"text": 12}', "field 'text' is 12, not a string"),
    "null": (b'{"text": null}', "field 'text' is None, not a string"),
    "empty": (b'{"text": ""}', "field 'text' is '', without text"),
    "white space": (b'{"text": " \\n"}', r"field 'text' is ' \n', without text"),
    "cut": (b'{"text": "x', "malformed JSON (Unterminated string"),
    "list": (b'["text"]', "not a JSON object but ['text']"),
    "deep": (b"[" * 100_000, "malformed JSON"),
    "utf-8": (b'{"text": "\xff"}', "byte 0xff at column 11 is not UTF-8"),
    "surrogate": (b'{"text": "a\\ud800"}', r"'\ud800', half of a surrogate pair"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_line_names_file_line_value_and_remedy(name: str, tmp_path: Path) -> None:
    line, expected = BAD[name]
    path = write(tmp_path / "eng.jsonl", b'{"text": "good"}\n' + line + b'\n{"text": "also good"}\n')
    with pytest.raises(UserError) as caught:
        list(read_documents(path))
    assert str(caught.value).startswith(f"{path}:2: ")
    assert expected in str(caught.value)
    assert "--skip-bad" in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400

    record = io.StringIO()
    skipped = SkippedLines(record)
    assert [d.text for d in read_documents(path, skip_bad=skipped)] == ["good", "also good"]
    assert skipped.count == 1
    assert json.loads(record.getvalue())["line"] == 2


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_file_without_documents(content: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", content)
    with pytest.raises(UserError, match="empty, no documents"):
        list(read_documents(path))
    skipped = SkippedLines()
    assert list(read_documents(path, skip_bad=skipped)) == [] and skipped.count == 1


@pytest.mark.parametrize("damage", ["cut", "not gzip", "flipped"])
def test_damaged_gzip_is_told(damage: str, tmp_path: Path) -> None:
    good = bytearray(gzip.compress(b'{"text": "hello"}\n' * 50))
    if damage == "flipped":
        good[-5] ^= 1
    content = {"cut": bytes(good[:-9]), "not gzip": b'{"text": "x"}\n', "flipped": bytes(good)}[damage]
    path = write(tmp_path / "a.jsonl.gz", content)
    assert_damage_is_told(path, r"a\.jsonl\.gz: damaged gzip")


def test_find_inputs_sorted_once_and_recursive(tmp_path: Path) -> None:
    files = [write(tmp_path / name, "x\n") for name in ("b/z.txt", "b/deep/a.jsonl", "c.jsonl.gz")]
    write(tmp_path / "b/notes.md", "x")
    write(tmp_path / "b/.hidden/a.jsonl", "x")
    assert find_inputs([tmp_path, tmp_path / "b", files[2]]) == sorted(files)


@pytest.mark.parametrize("make", ["nothing", "empty folder", "unknown kind"])
def test_find_inputs_refuses(make: str, tmp_path: Path) -> None:
    path = tmp_path / "in"
    if make == "empty folder":
        path.mkdir()
    elif make == "unknown kind":
        path = write(tmp_path / "in.pdf", "x")
    with pytest.raises(UserError, match="in"):
        find_inputs([path])


@pytest.mark.parametrize("cut", [20, 40_000])
def test_damaged_file_is_one_bad_line_and_the_rest_goes_on(cut: int, tmp_path: Path) -> None:
    """What comes before the damage is read to the last whole line."""
    numbers = [f"{n * 7919 % 100_003} {n}" for n in range(50_000)]
    packed = gzip.compress("\n".join(numbers).encode())
    (tmp_path / "a.txt.gz").write_bytes(packed[:-cut])
    (tmp_path / "b.txt").write_text("whole\n")
    skipped = SkippedLines()
    texts = [
        document.text for name in ("a.txt.gz", "b.txt") for document in read_documents(tmp_path / name, "text", skipped)
    ]
    lines = len(texts) - 1
    assert texts == [*numbers[:lines], "whole"] and lines > (49_000 if cut == 20 else 30_000)
    assert skipped.count == 1 and f"damaged gzip after line {lines} (" in str(skipped.first[0])
    with pytest.raises(UserError, match=rf"a.txt.gz: damaged gzip after line {lines} \(.*\); copy it again"):
        list(read_documents(tmp_path / "a.txt.gz"))
