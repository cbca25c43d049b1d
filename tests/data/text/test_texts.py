"""A text for every line of a .txt and every record; what holds none ends with a remedy that exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_mmbert.data.text.texts import Text, read_texts
from megatron_mmbert.utils.errors import UserError


def test_every_line_of_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("one\n\n  \nvier\u00a0\r\n\u00a0\nlast".encode())
    texts = list(read_texts(tmp_path / "a.txt"))
    assert texts == [
        Text(1, "one"), Text(2, ""), Text(3, "  "), Text(4, "vier\u00a0"), Text(5, "\u00a0"), Text(6, "last"),
    ]  # fmt: skip


def test_every_record_of_json_lines(tmp_path: Path) -> None:
    lines = ['{"text": "a", "id": 7}', "", '{"text": ""}', '{"text": null, "id": "x"}', '{"text": "\\u00a0"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n\n")
    texts = list(read_texts(tmp_path / "a.jsonl"))
    assert texts == [Text(1, "a", "7"), Text(3, ""), Text(4, "", "x"), Text(5, "\u00a0")]


def test_every_row_of_a_table(tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"text": ["a", "", None], "id": ["p", "q", "r"]}), tmp_path / "a.parquet")
    assert [text.text for text in read_texts(tmp_path / "a.parquet")] == ["a", "", ""]


@pytest.mark.parametrize("line", ["no json", '["list"]', '{"body": "a"}', '{"text": 3}', '{"text": {}}'])
def test_a_line_without_text(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' + line + "\n")
    with pytest.raises(UserError, match=r"a\.jsonl:2: .*; fix the line, or take it out of the file") as caught:
        list(read_texts(tmp_path / "a.jsonl"))
    assert "--" not in str(caught.value)


def test_bytes_that_are_no_text_and_no_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\n\xff\n")
    with pytest.raises(UserError, match=r"a\.txt:2: byte 0xff .*fix the line"):
        list(read_texts(tmp_path / "a.txt"))
    (tmp_path / "b.txt").touch()
    with pytest.raises(UserError, match=r"b\.txt: empty"):
        list(read_texts(tmp_path / "b.txt"))
