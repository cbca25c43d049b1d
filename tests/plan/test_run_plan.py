"""The plan's numbers against arithmetic done here, without the rooms that the plan uses."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import yaml
from support import tiny_run

from megatron_mmbert.builders.data import data_phase, token_ids, tokenizer_of
from megatron_mmbert.config import Recipe, load_recipe
from megatron_mmbert.config.data import LANGUAGE_SETS
from megatron_mmbert.config.loading import presets
from megatron_mmbert.data.loading.loader import PackLoader
from megatron_mmbert.data.sampling.mixture import Mixture
from megatron_mmbert.data.store.multi_store import open_stores
from megatron_mmbert.plan.cost import Machine, forecast, total
from megatron_mmbert.plan.render.languages_plot import plot_plan
from megatron_mmbert.plan.render.plan_tables import clock_time, plan_text
from megatron_mmbert.plan.run_plan import Plan, as_json, make_plan
from megatron_mmbert.utils.errors import UserError

COUNTS = {"aaa": 5_000_000, "bbb": 700_000, "ccc": 20_000}
PHASES = [
    {"name": "first", "tokens": 2_000_000, "languages": ["aaa", "bbb"], "temperature": 0.7, "mask_ratio": 0.3},
    {"name": "second", "tokens": 1_000_000, "languages": ["aaa", "bbb", "ccc", "ddd"], "temperature": 0.3},
]


def write_recipe(folder: Path, preset: str = "", **changes: object) -> Recipe:
    values: dict[str, object] = {"name": "planned", "tokenizer": {"path": "none"}, "data": {"stores": ["none"]}}
    if preset:
        values["preset"] = preset
    else:
        common = {"mask_ratio": 0.1, "max_length": 512, "lr": 1e-3}
        batch = {"tokens_per_step": 8192, "tokens_per_micro_batch": 2048}
        phases = [common | {"batch": batch} | phase for phase in PHASES]
        values |= {"model": {"num_layers": 3, "hidden_size": 48, "ffn_hidden_size": 96}, "phases": phases}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return load_recipe(path)


def write_counts(folder: Path, counts: dict[str, int], source: str = "") -> Path:
    path = folder / "counts.tsv"
    head, end = ("source\t", f"{source}\t") if source else ("", "")
    path.write_text(f"{head}code\ttokens\n" + "".join(f"{end}{name}\t{count}\n" for name, count in counts.items()))
    return path


def planned(recipe: Recipe, table: Path | None, machine: Machine | None = None, max_epochs: float = 4.0) -> Plan:
    return make_plan(recipe, machine or Machine(1), max_epochs, table)


def test_tokens_and_epochs_by_language(tmp_path: Path) -> None:
    plan = planned(write_recipe(tmp_path), write_counts(tmp_path, COUNTS))
    run_epochs = dict.fromkeys(COUNTS, 0.0)
    for phase, (languages, tau, tokens) in zip(
        plan.phases, [("aaa bbb", 0.7, 2_000_000), ("aaa bbb ccc", 0.3, 1_000_000)], strict=True
    ):
        weight = {name: COUNTS[name] ** tau for name in languages.split()}
        uses = {use.language: use for use in phase.languages()}
        assert uses.keys() == weight.keys()
        for name, use in uses.items():
            share = weight[name] / sum(weight.values())
            one_pass = COUNTS[name] + 2 * math.ceil(COUNTS[name] / 510)
            run_epochs[name] += share * tokens / one_pass
            assert use.tokens == pytest.approx(share * tokens)
            assert use.share == pytest.approx(share)
            assert use.epochs == pytest.approx(share * tokens / one_pass)
            assert use.run_epochs == pytest.approx(run_epochs[name])


def test_repeated_and_missing_languages_are_named(tmp_path: Path) -> None:
    recipe, table = write_recipe(tmp_path), write_counts(tmp_path, COUNTS)
    plan = planned(recipe, table)
    assert plan.phases[1].missing == ("ddd",)
    missing, repeated = plan.warnings
    assert "phase 'second': no text of 1 of its 4 languages: ddd" in missing
    weight = {name: count**0.3 for name, count in COUNTS.items()}
    epochs = 1e6 * weight["ccc"] / sum(weight.values()) / (20_000 + 2 * 40)
    assert epochs > 4 and f"ccc {epochs:.3g} times" in repeated and "more than 4 times" in repeated
    assert "aaa" not in repeated
    assert len(planned(recipe, table, max_epochs=50).warnings) == 1


def test_steps_by_walking_them(tmp_path: Path) -> None:
    """mmBERT's ramp on 8 GPUs: 8, 16, ... 96 micro batches, each size for its share of 60B tokens."""
    plan = planned(
        write_recipe(tmp_path, "mmbert_base-paper"), write_counts(tmp_path, COUNTS | {"eng": 10**12}), Machine(8)
    )
    phase = plan.phases[0]
    assert phase.fill > 0.99
    micro = round(phase.fill * 49_152)
    sizes = range(8, 96, 8)
    tokens, steps, size, end = 0, 0, 8, 60e9 * 8 / sum(sizes)
    while tokens < 2.3e12:
        while size < 96 and tokens >= end:
            size += 8
            end += 60e9 * size / sum(sizes)
        tokens, steps = tokens + size * micro, steps + 1
    assert phase.steps == pytest.approx(steps, abs=2)
    assert as_json(plan)["phases"][0]["tokens_per_step"] == {"start": 8 * 49_152, "full": 4_718_592}


@pytest.mark.parametrize(("phase", "length", "ratio"), [(0, 1024, 0.3), (1, 8192, 0.15), (2, 8192, 0.05)])
def test_flops_by_hand(tmp_path: Path, phase: int, length: int, ratio: float) -> None:
    """6 per weight and token; 12 x width per pair that a token attends to; head and last MLP for scored tokens."""
    plan = planned(write_recipe(tmp_path, "mmbert_base-paper"), write_counts(tmp_path, {"eng": 10**12, "xho": 10**9}))
    width, ffn = 768, 1152
    body = 6 * (22 * 4 * width**2 + (21 + ratio) * 3 * width * ffn)  # the last layer's MLP for scored tokens too
    attention = 12 * width * (8 * length + 14 * (129 - 64 * 65 / length))
    head = 6 * ratio * (width**2 + width * 256_000)
    assert plan.phases[phase].flops_per_token == pytest.approx(body + attention + head, rel=2e-3)
    assert plan.phases[phase].flops == plan.phases[phase].flops_per_token * plan.phases[phase].phase.tokens


def test_time_energy_and_cost(tmp_path: Path) -> None:
    machine = Machine(64, tokens_per_second=100_000, watts=900, price_per_hour=2.5)
    plan = planned(write_recipe(tmp_path, "mmbert_base-paper"), write_counts(tmp_path, {"eng": 10**12}), Machine(8))
    found, gpu_hours = forecast(plan.phases[0], machine), 2.3e12 / 1e5 / 3600
    assert found is not None and found.gpu_hours == pytest.approx(gpu_hours)
    assert found.hours == pytest.approx(gpu_hours / 64)
    assert found.kilowatt_hours == pytest.approx(0.9 * gpu_hours) and found.cost == pytest.approx(2.5 * gpu_hours)
    whole = total(plan.phases, machine)
    assert whole is not None and whole.gpu_hours == pytest.approx(3.2e12 / 1e5 / 3600)
    by_work = total(plan.phases, Machine(64, flops_per_second=4e14))
    assert by_work is not None and by_work.hours == pytest.approx(plan.flops / 4e14 / 64 / 3600)
    assert by_work.cost is None and total(plan.phases, Machine(64)) is None
    assert [clock_time(hours) for hours in (48, 47, 0.5, 1 / 3600)] == [
        "2.0 days",
        "47.0 hours",
        "30.0 minutes",
        "1.0 seconds",
    ]


@pytest.mark.parametrize("preset", presets())
def test_every_preset_can_be_planned_before_there_is_text(tmp_path: Path, preset: str) -> None:
    languages = LANGUAGE_SETS["@mmbert_midtrain"]
    counts = {name: 10**12 // (n + 1) ** 2 for n, name in enumerate(languages)} | {"zzz": 10**9}
    recipe = write_recipe(tmp_path, preset)
    plan = planned(recipe, write_counts(tmp_path, counts), Machine(1, tokens_per_second=1e5))
    assert {len(phase.languages()) for phase in plan.phases} == {61, 110, 111}
    for phase in plan.phases:
        wanted = phase.phase.languages
        assert len(phase.languages()) == (111 if wanted == "all" else len(wanted))
        assert sum(use.share for use in phase.languages()) == pytest.approx(1)
        assert phase.steps >= phase.phase.tokens / phase.phase.batch.tokens_per_step
        assert not phase.missing
    text = plan_text(plan, all_languages=True)
    assert all(f"\n{name} " in text for name in counts)
    assert "... 95 more" in plan_text(plan)


def test_shares_of_sources_hold_for_those_there_are(tmp_path: Path) -> None:
    recipe, table = write_recipe(tmp_path, "mmbert_base-paper"), tmp_path / "counts.tsv"
    table.write_text("source\tlanguage\ttokens\nfineweb2\teng\t100B\nfineweb2\trus\t10B\ndclm\teng\t3T\n")
    plan = planned(recipe, table)
    tokens = {(group.source, group.language): group.tokens for group in plan.phases[0].groups}
    assert tokens["dclm", "eng"] == pytest.approx(2.3e12 * 600 / 1796.6)
    assert tokens["fineweb2", "eng"] / tokens["fineweb2", "rus"] == pytest.approx(10**0.7)
    assert any("phase 'pretrain': no text of source starcoder, arxiv" in warning for warning in plan.warnings)


def test_a_cap_that_cannot_hold_is_a_warning(tmp_path: Path) -> None:
    plan = planned(write_recipe(tmp_path, "mmbert_base-paper"), write_counts(tmp_path, {"eng": 10**10, "rus": 10**9}))
    assert any("phase 'decay_all': max_epochs 3.0 allows" in warning for warning in plan.warnings)
    assert sum(use.tokens for use in plan.phases[-1].languages()) == pytest.approx(1e11)


def test_without_text_there_are_steps_and_work(tmp_path: Path) -> None:
    plan = planned(write_recipe(tmp_path), None)
    assert [phase.steps for phase in plan.phases] == [math.ceil(2e6 / 8192), math.ceil(1e6 / 8192)]
    assert "none: no such token store yet" in plan.warnings and "give --token-counts" in plan.warnings[1]
    plot_plan(plan, tmp_path / "empty.png")
    assert "2,000,000" not in plan_text(plan) and "phase first:" not in plan_text(plan)


@pytest.fixture(scope="module")
def trainable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.make_run(tmp_path_factory.mktemp("planned"))


def test_with_stores_the_plan_is_what_training_does(trainable: Path) -> None:
    recipe = load_recipe(trainable)
    plan = planned(recipe, None)
    stores = open_stores(recipe.data.stores)
    for phase in plan.phases:
        trained = Mixture(stores, data_phase(recipe, phase.phase, stores)).expected()
        assert [(use.language, use.tokens, use.epochs) for use in phase.groups] == [
            (group.language, group.tokens, group.epochs) for group in trained
        ]


@pytest.mark.parametrize("ending", [".idx", ".crc32"])
def test_a_damaged_store_is_no_warning(ending: str, trainable: Path, tmp_path: Path) -> None:
    recipe = load_recipe(trainable, [])
    shutil.copytree(recipe.data.stores[0], tmp_path / "store")
    shard = tmp_path / "store" / f"shard-00000{ending}"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\xff")
    damaged = load_recipe(trainable, [f"data.stores=[{tmp_path / 'store'}]"])
    with pytest.raises(UserError, match=f"shard-00000{ending}"):
        planned(damaged, None)


def test_steps_count_what_packs_leave_empty(trainable: Path) -> None:
    recipe = load_recipe(trainable, ["phases.second.tokens=200k"])
    phase = recipe.phase("second")
    tokenizer = tokenizer_of(recipe)
    stores = open_stores(recipe.data.stores)
    loader = PackLoader(stores, data_phase(recipe, phase, stores), token_ids(tokenizer))
    steps = 0
    while loader.state.tokens < phase.tokens:
        loader.next_packs(2)
        steps += 1
    assert planned(recipe, None).phases[1].steps == pytest.approx(steps, abs=2)
    assert steps > math.ceil(phase.tokens / 512) + 4, "the test needs packs that are not full"


def test_gpus_that_the_layout_cannot_use(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, parallel={"tensor": 2, "pipeline": 2})
    with pytest.raises(UserError, match=r"--gpus 6: not a multiple of parallel.tensor x parallel.pipeline = 4"):
        planned(recipe, None, Machine(6))
