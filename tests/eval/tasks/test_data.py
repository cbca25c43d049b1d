"""Data of a task: languages found, samples drawn, and every fault of a file said with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from support.tiny_tasks import make_suite

from megatron_mmbert.eval.tasks.data import TaskData
from megatron_mmbert.eval.tasks.loading import load_suite
from megatron_mmbert.utils.errors import UserError


def data_of(folder: Path, task: str, **changes: object) -> TaskData:
    _, tasks = load_suite(str(make_suite(folder, [task])))
    return TaskData(tasks[0].model_copy(update=changes), folder / "data")


def test_languages_are_those_that_have_files(tmp_path: Path) -> None:
    data = data_of(tmp_path, "topic")
    assert data.languages == ["deu_Latn", "eng_Latn", "rus_Latn"]
    assert data.trained_languages() == ["deu_Latn", "eng_Latn"]
    assert (data.facts("deu_Latn").name, data.facts("deu_Latn").phase) == ("German", "1")


def test_a_language_that_is_named_must_be_there(tmp_path: Path) -> None:
    data = data_of(tmp_path, "topic", languages=["eng_Latn", "fra_Latn"])
    with pytest.raises(UserError, match=r"fra_Latn/test.jsonl: no such file; get it, or take 'fra_Latn' from"):
        _ = data.languages
    with pytest.raises(UserError, match=r"task 'topic': no file .*--data"):
        _ = TaskData(data_of(tmp_path, "topic").task, tmp_path / "elsewhere").languages


def test_samples_depend_on_the_seed_alone(tmp_path: Path) -> None:
    data = data_of(tmp_path, "topic")
    first = data.examples("train", "eng_Latn", 20, 0)
    again = data_of(tmp_path, "topic").examples("train", "eng_Latn", 20, 0)
    assert [each.values for each in first] == [each.values for each in again]
    assert [each.values for each in first] != [each.values for each in data.examples("train", "eng_Latn", 20, 1)]
    assert len(data.examples("train", "eng_Latn", 1000)) == 60


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"text": "a"', "test.jsonl:3: not a line of JSON"),
        ("[1]", "test.jsonl:3: not an object with columns; task 'topic' needs 'text', 'label'"),
        ('{"txt": "a", "label": "e"}', "test.jsonl:3: no column 'text' (did you mean 'txt'?); task 'topic' needs"),
        ('{"text": 1.5, "label": "e"}', "test.jsonl:3: text is 1.5; it must be text"),
        ('{"text": null, "label": "e"}', "test.jsonl:3: text is None; it must be text"),
        ('{"text": "a", "label": "E"}', "test.jsonl:3: label 'E' is none of task 'topic': e, t, a"),
    ],
)
def test_a_wrong_line(tmp_path: Path, line: str, sentence: str) -> None:
    data = data_of(tmp_path, "topic")
    path = data.path("test", "eng_Latn")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[3:]]) + "\n")
    with pytest.raises(UserError) as error:
        data.examples("test", "eng_Latn")
    assert sentence in str(error.value)


def test_an_empty_split_and_unequal_lists(tmp_path: Path) -> None:
    data = data_of(tmp_path, "tags")
    data.path("test", "eng_Latn").write_text("")
    with pytest.raises(UserError, match=r"eng_Latn/test.jsonl: no examples in this file"):
        data.examples("test", "eng_Latn")
    data.path("test", "deu_Latn").write_text(json.dumps({"words": ["a", "b"], "tags": ["O"]}) + "\n")
    with pytest.raises(UserError, match=r"2 words and 1 tags; there must be as many of both"):
        data.examples("test", "deu_Latn")


def test_parquet_and_numbers_as_labels(tmp_path: Path) -> None:
    data = data_of(tmp_path, "pairs")
    assert {row["label"] for row in data.examples("test", "eng_Latn")} == {"no", "yes"}
    rows = [json.loads(line) for line in data.path("test", "eng_Latn").read_text().splitlines()]
    path = data.path("test", "eng_Latn").with_suffix(".parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    splits = {**data.task.splits, "test": data.task.splits["test"].replace(".jsonl", ".parquet")}
    other = TaskData(data.task.model_copy(update={"splits": splits}), data.folder)
    assert [row.values for row in other.examples("test", "eng_Latn")] == [
        row.values for row in data.examples("test", "eng_Latn")
    ]
    path.write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"not a Parquet file"):
        TaskData(other.task, data.folder).examples("test", "eng_Latn")
