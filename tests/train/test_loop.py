"""Training a phase: it learns, it resumes bit for bit, and phases follow one another."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from megatron_mmbert.checkpoint.discovery import committed_checkpoints
from megatron_mmbert.checkpoint.metadata import read_meta
from megatron_mmbert.config import load_recipe
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.data.store.multi_store import open_stores
from megatron_mmbert.parallel import Runtime
from megatron_mmbert.train.callbacks import Callback, CallbackList, HeldOutFile, MetricsFile
from megatron_mmbert.train.callbacks.held_out import HeldOutScoring
from megatron_mmbert.train.loop import train
from megatron_mmbert.train.phase_run import load_held_out_text
from megatron_mmbert.train.resume import find_starting_point
from megatron_mmbert.train.trainer import Trainer, build_trainer
from megatron_mmbert.utils.errors import UserError


def run(
    recipe_path: Path, output: Path, phase: str, steps: int | None = None, overrides: tuple = ()
) -> dict[str, torch.Tensor]:
    """Train (at most ``steps`` steps) and return the weights and moments."""
    recipe = load_recipe(recipe_path, overrides)
    trainer = build_trainer(recipe, recipe.phase(phase), output)
    counter = itertools.count()
    stop: Callable[[], bool] = (lambda: next(counter) >= steps) if steps is not None else (lambda: False)
    train(trainer, with_scores(trainer, [MetricsFile(trainer.folder.metrics, trainer.counters.step)]), stop)
    state = {name: parameter.detach().clone() for name, parameter in trainer.training.encoders[0].named_parameters()}
    inner = trainer.training.optimizer.stable_adamw
    for number, group in enumerate(inner.param_groups):
        for index, parameter in enumerate(group["params"]):
            for key, value in inner.state[parameter].items():
                state[f"{number}.{index}.{key}"] = value.clone()
    return state


def with_scores(trainer: Trainer, callbacks: list[Callback]) -> list[Callback]:
    """The callbacks, and the one that scores held-out text."""
    text = load_held_out_text(trainer.recipe)
    assert text is not None
    every = trainer.recipe.evaluation.every_tokens
    return [*callbacks, HeldOutScoring(text, trainer.training, every, trainer.folder, CallbackList(callbacks))]


def losses(output: Path, phase: str) -> list[float]:
    return [json.loads(line)["loss"] for line in (output / phase / "metrics.jsonl").open()]


@pytest.fixture(scope="module")
def whole(recipe_path: Path, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    output = tmp_path_factory.mktemp("whole")
    return output, run(recipe_path, output, "first")


def test_it_learns(whole: tuple[Path, dict]) -> None:
    output, _ = whole
    found = losses(output, "first")
    assert len(found) >= 11
    assert found[-1] < found[0] - 0.3
    scores = json.loads((output / "first/bits_per_byte.json").read_text())
    assert scores["after"]["aaa_Latn"] < scores["before"]["aaa_Latn"] - 0.1


def test_finished_checkpoint_says_where_it_stands(whole: tuple[Path, dict]) -> None:
    newest = committed_checkpoints(whole[0] / "first/checkpoints")[-1]
    meta = read_meta(newest)
    assert meta.finished and meta.phase == "first" and meta.has_optimizer
    assert meta.phase_tokens == meta.total_tokens == meta.loader["tokens"] >= 6000
    assert meta.step == len(losses(whole[0], "first"))
    assert len(committed_checkpoints(newest.parent)) == 3  # at 2,500 and 5,000 tokens, and at the end


@pytest.mark.parametrize("cut", [1, 4, 7])
def test_resume_is_bit_identical(
    cut: int, recipe_path: Path, runtime: Runtime, tmp_path: Path, whole: tuple[Path, dict]
) -> None:
    run(recipe_path, tmp_path, "first", steps=cut)
    assert len(losses(tmp_path, "first")) == cut
    resumed = run(recipe_path, tmp_path, "first")
    assert losses(tmp_path, "first") == losses(whole[0], "first")
    assert resumed.keys() == whole[1].keys()
    for name, value in whole[1].items():
        assert torch.equal(value, resumed[name]), name


def test_resume_after_lost_steps_drops_their_lines(
    recipe_path: Path, runtime: Runtime, tmp_path: Path, whole: tuple[Path, dict]
) -> None:
    """A kill loses the steps since the last checkpoint; they are taken again and stand once in the metrics."""
    run(recipe_path, tmp_path, "first", steps=3)
    lines = (tmp_path / "first/metrics.jsonl").read_text()
    extra = json.loads(lines.splitlines()[-1]) | {"step": 4, "loss": 99.0}
    (tmp_path / "first/metrics.jsonl").write_text(lines + json.dumps(extra) + "\n" + '{"step": 5, "lo')
    run(recipe_path, tmp_path, "first")
    assert losses(tmp_path, "first") == losses(whole[0], "first")


def test_next_phase_starts_from_the_one_before(
    recipe_path: Path, runtime: Runtime, tmp_path: Path, whole: tuple[Path, dict]
) -> None:
    recipe = load_recipe(recipe_path)
    (tmp_path / "first").symlink_to(whole[0] / "first")
    trainer = build_trainer(recipe, recipe.phase("second"), tmp_path)
    for name, parameter in trainer.training.encoders[0].named_parameters():
        assert torch.equal(parameter, whole[1][name]), name
    assert trainer.training.optimizer.stable_adamw.param_groups[0]["step"] == len(losses(whole[0], "first"))
    assert trainer.counters.phase_tokens == 0 and trainer.counters.tokens_before >= 6000
    thetas = {layer.self_attention.core_attention.rope_theta for layer in trainer.training.encoders[0].encoder.layers}
    assert thetas == {160_000}
    assert max(int(pack.max_seqlen) for pack in trainer.loader.next_packs(8)) > 64  # the longer samples of this phase


def test_data_goes_on_where_the_phase_before_stopped(
    recipe_path: Path, runtime: Runtime, tmp_path: Path, whole: tuple[Path, dict], capsys: pytest.CaptureFixture[str]
) -> None:
    """The second phase, with longer samples, gives nothing again that the first gave in an epoch still going on; a
    resume knows of it from its own checkpoint."""
    recipe = load_recipe(recipe_path)
    (tmp_path / "first").symlink_to(whole[0] / "first")
    first = build_trainer(recipe, recipe.phase("first"), tmp_path / "again").loader
    trained = read_meta(committed_checkpoints(whole[0] / "first/checkpoints")[-1]).loader
    begins = {name: np.cumsum([0, *stores_lengths(recipe, name)]) for name in first.names}
    times = {name: np.zeros(begins[name][-1], dtype=int) for name in first.names}
    run(recipe_path, tmp_path, "second", steps=2)
    second = build_trainer(recipe, recipe.phase("second"), tmp_path).loader
    assert "data: continues where first stopped" in capsys.readouterr().out
    meta = read_meta(committed_checkpoints(tmp_path / "second/checkpoints")[-1])
    assert [each.phase["name"] for each in meta.history] == ["first"]
    assert len(json.dumps(meta.loader)) <= 1024
    for mixture, blocks in ((first.mixture, trained["block"] + (trained["pack"] > 0)), (second.mixture, 3)):
        for block in map(mixture.block, range(blocks)):
            columns = (block.dataset, block.document, block.start, block.stop)
            for group, document, start, stop in zip(*(each.tolist() for each in columns), strict=True):
                name = mixture.names[group]
                if name in times:
                    begin = begins[name][document]
                    times[name][begin + start : begin + stop] += 1
            assert all(each.max() - each.min() <= 1 for each in times.values())


def stores_lengths(recipe: Recipe, name: tuple[str, str]) -> list[int]:
    return open_stores(recipe.data.stores).document_lengths(*name).tolist()


def test_phase_before_must_be_finished(recipe_path: Path, runtime: Runtime, tmp_path: Path) -> None:
    run(recipe_path, tmp_path, "first", steps=1)
    recipe = load_recipe(recipe_path)
    with pytest.raises(UserError, match=r"'first' has not finished .*--start-from"):
        build_trainer(recipe, recipe.phase("second"), tmp_path)


def test_finished_phase_is_left_alone(recipe_path: Path, runtime: Runtime, whole: tuple[Path, dict]) -> None:
    recipe = load_recipe(recipe_path)
    assert find_starting_point(recipe, recipe.phase("first"), whole[0]).finished


def test_checkpoint_of_another_shape(recipe_path: Path, runtime: Runtime, whole: tuple[Path, dict]) -> None:
    recipe = load_recipe(recipe_path, ["model.ffn_hidden_size=64"])
    with pytest.raises(UserError, match="ffn_hidden_size 48 and the recipe 64"):
        build_trainer(recipe, recipe.phase("first"), whole[0])


class Killed(Exception):
    pass


def test_held_out_scores_on_the_way_survive_a_kill(recipe_path: Path, runtime: Runtime, tmp_path: Path) -> None:
    """Killed behind a checkpoint and a further scoring, resumed: every moment stands once, with the same values."""
    recipe = load_recipe(recipe_path, ["evaluation.every_tokens=1100"])
    phase = recipe.phase("first")
    for output, killed_at in ((tmp_path / "whole", None), (tmp_path / "killed", 8), (tmp_path / "killed", None)):
        trainer, asked = build_trainer(recipe, phase, output), itertools.count()

        def stop(asked: Iterator[int] = asked, killed_at: int | None = killed_at) -> bool:
            if next(asked) == killed_at:
                raise Killed
            return False

        counters = trainer.counters
        callback = HeldOutFile(trainer.folder.held_out, counters.step, counters.total_tokens)
        with contextlib.nullcontext() if killed_at is None else pytest.raises(Killed):
            train(trainer, with_scores(trainer, [callback]), stop)
    rows = [json.loads(line) for line in (tmp_path / "whole/first/held_out.jsonl").open()]
    assert rows == [json.loads(line) for line in (tmp_path / "killed/first/held_out.jsonl").open()]
    places = [row["total_tokens"] // 1100 for row in rows[1:-1]]
    assert rows[0]["moment"] == "before" and rows[-1]["moment"] == "after" and places == list(range(1, 6))
    assert rows[1]["moment"] == f"at {rows[1]['total_tokens']:,} tokens"
    assert all(set(row["bits_per_byte"]) == {"aaa_Latn", "bbb_Latn", "ccc_Cyrl"} for row in rows)
    assert set(json.loads((tmp_path / "killed/first/bits_per_byte.json").read_text())) == {"before", "after"}
