"""Reading run folders, whole and half-finished."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_mmbert.report.run_reader import MERGED_SCORES, read_curves, read_run
from megatron_mmbert.utils.errors import UserError

LANGUAGES = ["eng_Latn", "fra_Latn"]
PHASES = ("decay_all", "decay_eng", "midtrain", "pretrain")


def test_phases_hang_together_by_their_tokens_where_no_recipe_is(make_run) -> None:
    run = read_run(make_run({name: LANGUAGES for name in reversed(PHASES)}))
    assert [(phase.name, phase.origin, phase.stage) for phase in run.phases] == [
        ("pretrain", None, 0),
        ("midtrain", "pretrain", 1),
        ("decay_all", "midtrain", 2),
        ("decay_eng", "midtrain", 2),
    ]
    assert [len(stage) for stage in run.stages()] == [1, 1, 2]


def test_the_recipe_gives_order_and_origin(make_run, tmp_path: Path) -> None:
    output = make_run({name: LANGUAGES for name in reversed(PHASES)})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: r\npreset: tiny\ntokenizer: {path: t}\ndata: {stores: [s]}\n")
    assert [phase.name for phase in read_run(output, recipe).phases] == [
        "pretrain",
        "midtrain",
        "decay_eng",
        "decay_all",
    ]
    (output / "decay_eng" / "recipe.yaml").write_text(recipe.read_text())
    assert [phase.name for phase in read_run(output).phases] == ["pretrain", "midtrain", "decay_eng", "decay_all"]


def test_shares_of_several_sources_are_summed(make_run) -> None:
    output = make_run({"pretrain": LANGUAGES})
    rows = [
        {"source": "web", "language": "eng_Latn", "share": 0.2, "tokens": 20.0, "epochs": 2.0},
        {"source": "books", "language": "eng_Latn", "share": 0.5, "tokens": 50.0, "epochs": 1.0},
        {"source": "web", "language": "fra_Latn", "share": 0.3, "tokens": 30.0, "epochs": 0.5},
    ]
    (output / "pretrain" / "mixture.json").write_text(json.dumps(rows))
    phase = read_run(output).phases[0]
    assert phase.shares == pytest.approx({"eng_Latn": 0.7, "fra_Latn": 0.3})
    assert phase.sizes == {"eng_Latn": 60.0, "fra_Latn": 60.0}


def test_a_phase_that_has_just_begun(make_run) -> None:
    output = make_run({"pretrain": LANGUAGES})
    folder = output / "midtrain"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("")
    run = read_run(output)
    assert [(phase.name, phase.steps) for phase in run.phases] == [("midtrain", 0), ("pretrain", 50)]


def test_a_line_being_written_is_left_out_and_a_damaged_one_named(make_run) -> None:
    path = make_run({"pretrain": LANGUAGES}) / "pretrain" / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"phase": "pretr')
    assert len(read_curves(path)["loss"]) == 50
    lines = whole.splitlines(keepends=True)
    path.write_text("".join([*lines[:2], lines[2].replace('"loss"', '"lost"'), *lines[3:]]))
    with pytest.raises(UserError, match=r"metrics.jsonl:3: "):
        read_curves(path)


@pytest.mark.parametrize("text", ['["eng"]', '{"after": [1]}', '{"after": {"eng": "low"}}', "{"])
def test_damaged_scores_are_named(make_run, text: str) -> None:
    output = make_run({"pretrain": LANGUAGES})
    (output / MERGED_SCORES).write_text(text)
    with pytest.raises(UserError, match=MERGED_SCORES):
        read_run(output)


def test_a_damaged_mixture_is_named(make_run) -> None:
    output = make_run({"pretrain": LANGUAGES})
    (output / "pretrain" / "mixture.json").write_text('{"eng": 1}')
    with pytest.raises(UserError, match=r"mixture.json: no list of languages"):
        read_run(output)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no phase of a run here"):
        read_run(tmp_path)


@pytest.mark.parametrize("key", ["mfu", "peak_share"])
def test_metrics_of_this_and_of_earlier_versions(key: str, make_run) -> None:
    """``mfu`` was called ``peak_share``."""
    path = make_run({"pretrain": LANGUAGES}) / "pretrain/metrics.jsonl"
    lines = [json.loads(line) | {key: 0.4} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(read_curves(path)["loss"]) == len(lines) > 0
