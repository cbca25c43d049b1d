"""Definitions of tasks and suites: this project's are right, and a wrong one is one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny_tasks import make_suite

from megatron_mmbert.eval.tasks.definition import Suite
from megatron_mmbert.eval.tasks.loading import chosen_tasks, data_folder, load_suite, load_task, suites
from megatron_mmbert.utils.errors import UserError


@pytest.mark.parametrize("name", suites())
def test_suites_of_this_project(name: str) -> None:
    suite, tasks = load_suite(name)
    assert suite.name == name
    assert [task.name for task in tasks] == suite.tasks
    for task in tasks:
        assert task.licence


@pytest.mark.parametrize(
    ("was", "now", "sentence"),
    [
        ("title:", "titel:", "topic.yaml: unknown key 'titel' (did you mean 'title'?); correct or remove it"),
        ("max_train: 50", "max_trian: 50", "unknown key 'settings.max_trian' (did you mean 'max_train'?)"),
        ("max_train: 50", "max_train: 1", "settings.max_train 1: Input should be greater than or equal to 2"),
        ("label: label}", "lable: label}", "columns: a task of head 'classification' has the columns text, label, not"),
        ('dev: "topic', 'valid: "topic', "splits.valid"),
        ('dev: "topic/{language}/dev.jsonl", ', "", "splits: split 'dev' is missing; head 'classification' needs it"),
        ("/{language}/dev", "/dev", "splits.dev: 'topic/dev.jsonl': write {language} where the language stands"),
        ("head: classification", "head: classify", "head 'classify'"),
        ("head:", "metric: mrr\nhead:", "metric: 'mrr': head 'classification' is scored by accuracy"),
        ("title: which letter prevails\n", "", "key 'title' is missing; write it"),
        ("head:", "head: pair\nhead:", "topic.yaml:4: not valid YAML (key 'head' is written twice)"),
        ("which letter", "which \x07 letter", "topic.yaml: not valid YAML (unacceptable character"),
        ("columns: {", "columns: }", "topic.yaml:5: not valid YAML"),
    ],
)
def test_a_wrong_definition(tmp_path: Path, was: str, now: str, sentence: str) -> None:
    suite = make_suite(tmp_path, ["topic"])
    file = tmp_path / "topic.yaml"
    assert was in file.read_text()
    file.write_text(file.read_text().replace(was, now, 1))
    with pytest.raises(UserError) as error:
        load_suite(str(suite))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--suite locl: no such suite or file \(did you mean 'local'\?\); there are"):
        load_suite("locl")
    with pytest.raises(UserError, match=r"tatoba.yaml: no such task \(did you mean 'tatoeba'\?\)"):
        load_task("tatoba", tmp_path)
    suite, tasks = load_suite(str(make_suite(tmp_path, ["topic"])))
    with pytest.raises(UserError, match=r"--tasks topics: no such task in this suite \(did you mean 'topic'\?\)"):
        chosen_tasks(tasks, ["topics"])
    with pytest.raises(
        UserError, match=r"suite 'tiny': its data are not here \(looked for nowhere\); name their folder"
    ):
        data_folder(suite, None)
    with pytest.raises(UserError, match=r"--data .*/none: no such folder"):
        data_folder(suite, tmp_path / "none")


def test_two_tasks_of_one_name(tmp_path: Path) -> None:
    suite = make_suite(tmp_path, ["topic"])
    (tmp_path / "again.yaml").write_text((tmp_path / "topic.yaml").read_text())
    suite.write_text(suite.read_text().replace("topic.yaml]", "topic.yaml, again.yaml]"))
    with pytest.raises(UserError, match=r"two tasks are called 'topic'; rename one of them"):
        load_suite(str(suite))


def test_the_first_folder_of_data_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b").mkdir()
    suite = Suite(name="x", title="x", data=["a", "b"], tasks=["t"])
    assert data_folder(suite, None) == Path("b")
