"""The command as a whole on a tiny model: results, resuming, shards, budget, staleness, pages, bad input."""

from __future__ import annotations

import html.parser
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.tiny_export import make_export
from support.tiny_tasks import LANGUAGES, make_suite, write_rows

from megatron_mmbert.cli import run_cli
from megatron_mmbert.eval.probes import linear
from megatron_mmbert.eval.probes.tagging import Tagging
from megatron_mmbert.utils.errors import UserError

pytest.importorskip("sklearn", reason="the extra [eval] is not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_export(tmp_path_factory.mktemp("export") / "a <model>", layers=2)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return make_suite(tmp_path)


def evaluate(suite: Path, output: Path, *arguments: object, data: Path | None = None) -> dict[str, Any]:
    where = ("--data", str(data or suite.parent / "data"), "--output", str(output), "--device", "cpu")
    run_cli(["evaluate", "--suite", str(suite), *where, *map(str, arguments)])
    found: dict[str, Any] = json.loads((output / "results.json").read_text())
    return found


def cells(output: Path) -> dict[str, bytes]:
    """The content of each cell."""
    paths = sorted((output / "cells").rglob("*.json"))
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in paths}


def test_whole_suite(model: Path, suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every head has its rows, beside all that it must beat; what is printed says so; again computes nothing."""
    results = evaluate(suite, tmp_path / "out", model)
    rows = {(row["task"], row["setting"]): row for row in results["rows"]}
    assert set(rows) == {
        *(("topic", way) for way in ("in-language", "from eng_Latn")),
        ("pairs", "in-language"),
        *(("tags", f"from eng_Latn, {way}") for way in ("prefix space", "no prefix space")),
        *(("sentences", way) for way in ("to eng", "from eng")),
        *(("answers", way) for way in ("in-language", "to eng_Latn")),
        ("bits", "pseudo-likelihood"),
    }
    for (task, _), row in rows.items():
        assert {"ngrams", "random"} <= set(row["beside"]), task
        assert row["interval"][0] <= row["score"] <= row["interval"][1]
        assert row["languages"] == row["languages_wanted"]
        assert row["seeds"] == (2 if task == "topic" else 1)
        assert bool(row["chosen_on_dev"]) == (task in ("topic", "pairs", "tags"))
    assert rows["topic", "in-language"]["compared"]["chance"]["finding"] == "better"
    assert results["cells"]["there"] == results["cells"]["wanted"] == len(cells(tmp_path / "out"))
    said = capsys.readouterr().out
    assert "topic, in-language: better than" in said
    assert "character n-grams (p 0." in said
    again = evaluate(suite, tmp_path / "out", model)
    assert again == results
    assert f"0 results computed, {results['cells']['wanted']} were there" in capsys.readouterr().out


def test_killed_and_sharded_runs_end_alike(
    model: Path, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(suite, tmp_path / "whole", model)
    compute = Tagging.outcomes
    monkeypatch.setattr(Tagging, "outcomes", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        evaluate(suite, tmp_path / "killed", model)
    monkeypatch.setattr(Tagging, "outcomes", compute)
    assert 0 < len(cells(tmp_path / "killed")) < len(cells(tmp_path / "whole"))
    assert evaluate(suite, tmp_path / "killed", model) == whole
    first = evaluate(suite, tmp_path / "parts", model, "--shard", "2/2")
    assert 0 < first["cells"]["there"] < first["cells"]["wanted"]
    assert evaluate(suite, tmp_path / "parts", model, "--shard", "1/2") == whole
    for name in ("killed", "parts"):
        assert cells(tmp_path / name) == cells(tmp_path / "whole")


def test_stale_results_are_never_taken(model: Path, suite: Path, tmp_path: Path) -> None:
    """Other data, another setting, or another model under the same name: its cells are computed again, no others."""
    mine = tmp_path / "mine"
    shutil.copytree(model, mine)
    arguments = ("--tasks", "sentences", "topic", "--seeds", 1)
    evaluate(suite, tmp_path / "out", mine, *arguments)
    before = cells(tmp_path / "out")
    path = tmp_path / "data/sentences/deu_Latn.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n" + path.read_text())
    evaluate(suite, tmp_path / "out", mine, *arguments)
    changed = {name for name, text in cells(tmp_path / "out").items() if text != before[name]}
    assert changed == {name for name in before if "deu_Latn" in name and "/sentences/" in name}
    task = tmp_path / "topic.yaml"
    task.write_text(task.read_text().replace("max_dev: 20", "max_dev: 19").replace("title: which", "title: Which"))
    before = cells(tmp_path / "out")
    evaluate(suite, tmp_path / "out", mine, *arguments)
    assert {name for name, text in cells(tmp_path / "out").items() if text != before[name]} == {
        name for name in before if "/topic/" in name
    }
    config = json.loads((mine / "config.json").read_text())
    (mine / "config.json").write_text(json.dumps({**config, "local_attention": 8}))
    before = cells(tmp_path / "out")
    evaluate(suite, tmp_path / "out", mine, *arguments)
    changed = {name for name, text in cells(tmp_path / "out").items() if text != before[name]}
    assert changed == {name for name in before if "character-n-grams" not in name}


def test_damaged_cells_and_vectors_are_computed_again(model: Path, suite: Path, tmp_path: Path) -> None:
    whole = evaluate(suite, tmp_path / "out", model, "--tasks", "sentences")
    for path in [*(tmp_path / "out/vectors").glob("*.npy"), *(tmp_path / "out/cells").rglob("*.json")]:
        path.write_bytes(path.read_bytes()[:40])
    assert evaluate(suite, tmp_path / "out", model, "--tasks", "sentences") == whole


def test_budget(model: Path, suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = evaluate(suite, tmp_path / "out", model, "--budget", "0.001s")
    assert results["cells"]["there"] < results["cells"]["wanted"]
    assert "left for want of time: run the same command again" in capsys.readouterr().out
    page = (tmp_path / "out/report.md").read_text()
    assert f"of {results['cells']['wanted']}; run the same command again" in page
    results = evaluate(suite, tmp_path / "out", model, "--budget", "2h")
    assert results["cells"]["there"] == results["cells"]["wanted"]


def test_two_models_are_compared(model: Path, suite: Path, tmp_path: Path) -> None:
    other = make_export(tmp_path / "other", layers=1)
    results = evaluate(suite, tmp_path / "out", model, other, "--tasks", "sentences", "--languages", "deu_Latn")
    (to_eng, from_eng) = results["models_compared"]
    assert (to_eng["model"], to_eng["than"]) == (str(other), str(model))
    assert from_eng["setting"] == "from eng"
    assert {row["language"] for row in results["languages"]} == {"deu_Latn"}
    assert "Models compared" in (tmp_path / "out/report.md").read_text()


def test_pages(model: Path, suite: Path, tmp_path: Path) -> None:
    """The page is one file that loads nothing, its tags close, and names are text in it, also those like tags."""
    evaluate(suite, tmp_path / "out", model, "--tasks", "topic")
    page = (tmp_path / "out/report.html").read_text()
    opened: list[str] = []

    class Check(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            assert not {"src", "href"} & {name for name, _ in attributes}
            assert tag != "model"
            if tag != "meta":
                opened.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert opened.pop() == tag

    Check().feed(page)
    assert not opened
    assert "a &lt;model&gt;" in page
    for language in LANGUAGES:
        assert language in page
    for text in (page, (tmp_path / "out/report.md").read_text()):
        assert "Published, topic: other 71.5 (accuracy; fine-tuned): a paper." in text
    assert "a \\<model\\>" in (tmp_path / "out/report.md").read_text()


def test_a_model_without_head_has_no_bits(model: Path, suite: Path, tmp_path: Path) -> None:
    from transformers import ModernBertModel

    body = tmp_path / "body"
    shutil.copytree(model, body)
    ModernBertModel.from_pretrained(model).save_pretrained(body)
    results = evaluate(suite, tmp_path / "out", body, "--tasks", "bits", "sentences")
    assert {row["task"] for row in results["rows"]} == {"sentences"}
    assert results["unable"][0]["task"] == "bits"
    assert "no masked-language-model head" in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--languages", "fra_Latn"), "--languages fra_Latn: no task of this suite has it"),
        (("--tasks", "topics"), "--tasks topics: no such task"),
        (("--shard", "3/2"), "--shard: '3/2' is not a part; write I/N"),
        (("--budget", "10"), "--budget: '10' is not a time; write 90s, 10m or 2h"),
        (("--seeds", "0"), "--seeds"),
    ],
)
def test_bad_arguments(model: Path, suite: Path, tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        evaluate(suite, tmp_path / "out", model, *arguments)
    assert sentence in str(error.value)
    assert not (tmp_path / "out").exists()


def test_wrong_data_are_said_before_any_work(model: Path, suite: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "data/topic/rus_Latn/test.jsonl", [{"text": "a", "label": "x"}])
    with pytest.raises(UserError, match=r"rus_Latn/test.jsonl:1: label 'x' is none of task 'topic'"):
        evaluate(suite, tmp_path / "out", model)
    assert not (tmp_path / "out").exists()


def test_another_folder_is_not_written_to(model: Path, suite: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is, or holds, the input"):
        evaluate(suite, model, model)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is not a folder of evaluate's results"):
        evaluate(suite, tmp_path / "full", model)


def test_without_the_extra(model: Path, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(UserError, match=r"scikit-learn is not installed.*pip install 'megatron-mmbert\[eval\]'"):
        linear.check_installed()
        evaluate(suite, tmp_path / "out", model)


def test_a_task_of_the_hub_that_is_not_here(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is left out with the command that gets it; where nothing else is there either, that is an error."""
    suite = make_suite(tmp_path, ["sentences"])
    suite.write_text(suite.read_text().replace("sentences.yaml", "sentences.yaml, xnli"))
    results = evaluate(suite, tmp_path / "out", model)
    assert {row["task"] for row in results["rows"]} == {"sentences"}
    assert "xnli: left out, as its data are not here; hf download facebook/xnli" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"task 'xnli': no file .*; hf download facebook/xnli"):
        evaluate(suite, tmp_path / "other", model, "--tasks", "xnli")
