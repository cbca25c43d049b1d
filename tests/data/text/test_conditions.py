"""Conditions: what they mean, and the sentences where they mean nothing; FineWeb2's copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from megatron_mmbert.data.text.conditions import cluster_copies, parse_conditions
from megatron_mmbert.data.text.documents import read_file
from megatron_mmbert.data.text.records import Fields, InputFile, SkippedLines
from megatron_mmbert.utils.errors import UserError

RECORD = {"score": 0.9, "n": 3, "dump": "CC-MAIN-2024", "none": None, "yes": True, "quality": {"edu.x": 1, "edu": 4}}
HOLDS: dict[str, Any] = {
    "score >= 0.9": True,
    "score > 0.9": False,
    "score = .9 and n == 3.0": True,
    "n < 3": False,
    "n != 4 AND n <= +3e0": True,
    "dump >= 'CC-MAIN-2023' and dump != \"CC-MAIN-2025\"": True,
    "dump == ' and '": False,
    "none > 0": False,
    "none != 0": False,
    "quality.edu>=4": True,
    "nope > 1": "no field 'nope', which --where asks for",
    "dump > 1": "field 'dump' is 'CC-MAIN-2024', and --where compares it with a number",
    "yes == 1": "field 'yes' is 'True', and --where compares it with a number",
    "n == '3'": "field 'n' is '3', and --where compares it with a string",
}


@pytest.mark.parametrize("text", HOLDS)
def test_holds(text: str) -> None:
    held = [condition.holds(RECORD) for condition in parse_conditions(text)]
    assert (all(held) if len(held) > 1 else held[0]) == HOLDS[text]


@pytest.mark.parametrize(
    "text", ["", "score", "score >=", ">= 1", "score >= high", "a > 1 or b > 2", "a > 1 and", "a > 1 b > 2", "a > 1;"]
)
def test_not_understood(text: str) -> None:
    with pytest.raises(UserError, match=r"--where .* not understood from"):
        parse_conditions(text)


def test_weights_of_fineweb2() -> None:
    sizes = [1, 2, 3, 4, 5, 99, 100, 999, 1000, 10**6]
    assert [cluster_copies({"minhash_cluster_size": size}) for size in sizes] == [1, 2, 3, 3, 5, 5, 8, 8, 1, 1]
    assert "not a count" in str(cluster_copies({"minhash_cluster_size": 0}))
    assert "no field" in str(cluster_copies({}))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    columns = {
        "text": ["one", "two", "three"],
        "score": [0.5, 0.95, None],
        "embeddings": [[1.0]] * 3,
        "quality": [{"edu": 1}, {"edu": 5}, {"edu": 5}],
        "minhash_cluster_size": [1, 4, 200],
    }
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    return tmp_path / "a.parquet"


def test_only_the_columns_asked_for_are_read(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[str]] = []
    real = parquet.ParquetFile.iter_batches
    monkeypatch.setattr(
        parquet.ParquetFile,
        "iter_batches",
        lambda self, *args, columns, **rest: read.append(columns) or real(self, *args, columns=columns, **rest),
    )
    for where, kept in (("score >= 0.9", ["two"]), ("quality.edu > 2", ["two", "three"])):
        fields = Fields(where=parse_conditions(where))
        assert [d.text for d in read_file(InputFile(rows, None, fields))] == kept
    assert [d.copies for d in read_file(InputFile(rows, None, Fields(rehydrate=True)))] == [1, 3, 8]
    assert read == [["text", "score"], ["text", "quality"], ["text", "minhash_cluster_size"]]


def test_a_column_that_is_not_there(rows: Path) -> None:
    fields = Fields(where=parse_conditions("scores > 1"))
    with pytest.raises(UserError, match=r"no column 'scores' \(did you mean 'score'\?\).*check --where"):
        list(read_file(InputFile(rows, None, fields)))


def test_a_file_of_which_nothing_is_taken_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x", "n": 1}\n')
    skipped = SkippedLines()
    assert not list(read_file(InputFile(tmp_path / "a.jsonl", None, Fields(where=parse_conditions("n > 1"))), skipped))
    assert not skipped.count
