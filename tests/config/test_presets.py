"""The presets' numbers, against the paper (arXiv 2509.06888) and the official repository's configs, typed anew here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megatron_mmbert.builders.schedules import batch_ramp, step_split
from megatron_mmbert.config.loading import load_recipe, presets
from megatron_mmbert.config.recipe import Recipe

SIZES = {"base": (768, 12), "small": (384, 6)}
MMBERT = [f"mmbert_{size}-{kind}" for size in SIZES for kind in ("paper", "released")]
SOURCES = {
    *("fineweb2", "dclm", "dclm_dolmino", "starcoder", "prolong_code", "arxiv", "pes2o", "stackexchange"),
    *("stackexchange_dolmino", "tulu_flan", "dolmino_math", "books", "prolong_textbooks", "megawika"),
}
B, T = 10**9, 10**12

# name of the phase: (tokens, mask ratio, LR, weight decay, tokens per step, per pack, warm-up, ramp)
SHORT, LONG = 4608 * 1024, 4608 * 8192
NUMBERS: dict[str, dict[str, tuple[float, ...]]] = {
    "mmbert_base-paper": {
        "pretrain": (2.3 * T, 0.30, 8e-4, 8e-5, SHORT, 4096, 3 * B, 60 * B),
        "midtrain": (600 * B, 0.15, 8e-4, 8e-5, SHORT, 8192, 0, 0),
        "decay": (100 * B, 0.05, 8e-4, 8e-5, SHORT, 8192, 0, 0),
    },
    "mmbert_base-released": {
        "pretrain": (400 * B, 0.25, 8e-4, 8e-5, SHORT, 4096, 3 * B, 60 * B),
        "midtrain": (600 * B, 0.15, 8e-4, 8e-5, LONG, 8192, 0, 0),
        "decay": (100 * B, 0.05, 8e-4, 8e-5, LONG, 8192, 0, 0),
    },
    "mmbert_small-paper": {
        "pretrain": (1.2 * T, 0.30, 8e-4, 8e-5, SHORT, 4096, 4 * B, 100 * B),
        "pretrain_halved": (1.1 * T, 0.20, 4e-4, 4e-5, SHORT, 4096, 0, 0),
        "midtrain": (600 * B, 0.15, 4e-4, 4e-5, SHORT, 8192, 0, 0),
        "decay": (100 * B, 0.05, 4e-4, 4e-5, SHORT, 8192, 0, 0),
    },
    "mmbert_small-released": {
        "pretrain": (400 * B, 0.30, 8e-4, 8e-5, SHORT, 4096, 4 * B, 100 * B),
        "midtrain": (600 * B, 0.15, 4e-4, 4e-5, LONG, 8192, 0, 0),
        "decay": (100 * B, 0.05, 4e-4, 4e-5, LONG, 8192, 0, 0),
    },
}
DECAYS = ["decay_eng", "decay_cont", "decay_all"]


@pytest.fixture
def recipe(request: pytest.FixtureRequest, tmp_path: Path) -> Recipe:
    """A recipe of nothing but the preset and what is the user's own."""
    path = tmp_path / "r.yaml"
    path.write_text(f"preset: {request.param}\nname: x\ntokenizer: {{path: t}}\ndata: {{stores: [s]}}\n")
    return load_recipe(path)


def test_these_are_all_presets() -> None:
    assert presets() == sorted([*MMBERT, "tiny"])


@pytest.mark.parametrize(("recipe", "name"), [(name, name) for name in MMBERT], indirect=["recipe"])
def test_phases_have_the_published_numbers(recipe: Recipe, name: str) -> None:
    expected: dict[str, Any] = {k: v for k, v in NUMBERS[name].items() if k != "decay"}
    expected |= {decay: NUMBERS[name]["decay"] for decay in DECAYS}
    found = {
        phase.name: (
            *(phase.tokens, phase.mask_ratio.model_dump(), phase.lr, phase.weight_decay),
            *(phase.batch.tokens_per_step, phase.batch.tokens_per_pack),
            *(phase.schedule.warmup_tokens, phase.batch.ramp_tokens),
        )
        for phase in recipe.phases
    }
    assert found == expected
    assert list(found) == list(expected)


@pytest.mark.parametrize("recipe", MMBERT, indirect=True)
def test_what_the_sources_agree_on(recipe: Recipe) -> None:
    pretraining = [phase for phase in recipe.phases if phase.name.startswith("pretrain")]
    later = [phase for phase in recipe.phases if phase not in pretraining]
    assert {(p.max_length, p.rope_theta, p.theta_local, p.temperature.model_dump()) for p in pretraining} == {
        (1024, 1e4, 1e4, 0.7)
    }
    assert {(p.max_length, p.rope_theta, p.theta_local) for p in later} == {(8192, 160_000, 160_000)}
    assert [p.temperature.model_dump() for p in later] == [0.5, 0.3, 0.3, 0.3]
    assert [recipe.origin(p) for p in later] == [pretraining[-1].name, *["midtrain"] * 3]
    assert all(p.optimizer_state == "keep" for p in recipe.phases)
    ramp = pretraining[0].batch
    assert ramp.ramp_start_tokens == 384 * 1024
    assert ramp.tokens_per_step == 12 * ramp.ramp_start_tokens == 12 * ramp.ramp_increment_tokens
    assert (recipe.seed, recipe.precision.dtype, recipe.data.masking) == (21, "bf16", "paper")
    assert (recipe.optimizer.betas, recipe.optimizer.eps, recipe.optimizer.weight_decay) == ((0.9, 0.95), 1e-8, 8e-5)
    assert recipe.checkpoint.every_tokens == 10 * B


@pytest.mark.parametrize(("recipe", "name"), [(name, name) for name in MMBERT], indirect=["recipe"])
def test_any_number_of_ranks_trains_the_same_steps(recipe: Recipe, name: str) -> None:
    """From 1 to 512 data-parallel ranks; of the usual sizes few packs are empty."""
    for phase in recipe.phases:
        alone = batch_ramp(phase, 1)
        for ranks in range(1, 513):
            ramp, split = batch_ramp(phase, ranks), step_split(phase, ranks, max_packs=8)
            assert (ramp.stages(), ramp.full_packs) == (alone.stages(), alone.full_packs)
            assert all(split.split(size).per_rank * ranks >= size for size, _ in [*ramp.stages(), (ramp.full_packs, 0)])
        assert all(
            step_split(phase, ranks).efficiency(alone.full_packs) == 1 for ranks in (1, 2, 8, 16, 64, 96, 144, 288)
        )
        assert step_split(phase, 128).efficiency(alone.full_packs) >= 0.9


@pytest.mark.parametrize(("recipe", "name"), [(name, name) for name in MMBERT], indirect=["recipe"])
def test_decays_end_at_the_same_rate(recipe: Recipe, name: str) -> None:
    for phase in (recipe.phase(decay) for decay in DECAYS):
        assert phase.schedule.decay_tokens == phase.tokens
        assert phase.lr * phase.schedule.final_ratio == pytest.approx(1.6e-5, rel=1e-12)
        assert phase.schedule.decay == ("linear" if name == "mmbert_small-released" else "one_minus_sqrt")
    plateaus = [phase for phase in recipe.phases if phase.name not in DECAYS]
    assert all(phase.schedule.decay_tokens == 0 for phase in plateaus)


@pytest.mark.parametrize(("recipe", "name"), [(name, name) for name in MMBERT], indirect=["recipe"])
def test_the_models_shape(recipe: Recipe, name: str) -> None:
    hidden, heads = SIZES["base" if "base" in name else "small"]
    model = recipe.model
    assert (model.num_layers, model.hidden_size, model.num_attention_heads, model.head_dim) == (22, hidden, heads, 64)
    assert (model.ffn_hidden_size, model.vocab_size, model.max_length) == (1152, 256_000, 8192)
    assert (model.window_each_side, model.global_attention_every, model.norm_eps) == (64, 3, 1e-5)
    assert (model.attention_output_dropout, model.init_std) == (0.1, 0.02)


@pytest.mark.parametrize("recipe", MMBERT, indirect=True)
def test_languages(recipe: Recipe) -> None:
    listed = {phase.name: phase.languages for phase in recipe.phases}
    assert listed.pop("decay_all") == "all"
    sizes = {name: len(languages) for name, languages in listed.items()}
    assert sizes == {name: 61 if name.startswith("pretrain") else 110 for name in sizes}
    assert all("code" in languages for languages in listed.values())


@pytest.mark.parametrize("recipe", MMBERT, indirect=True)
def test_mixtures_are_those_of_the_papers_table(recipe: Recipe) -> None:
    percent = {
        "pretrain": {"fineweb2": 60.2, "dclm": 30.2, "starcoder": 5.1, "arxiv": 1.4, "stackexchange_dolmino": 0.1},
        "midtrain": {"fineweb2": 84.3, "dclm": 1.7, "dclm_dolmino": 6.7, "starcoder": 2.9, "megawika": 0.2},
        "decay_cont": {"fineweb2": 76.0, "dclm_dolmino": 2.0, "prolong_code": 2.7, "prolong_textbooks": 3.0},
    }
    totals = {"pretrain": 1989.0, "midtrain": 600.8, "decay_cont": 103.3, "decay_eng": 104.4, "decay_all": 114.2}
    for name, total in totals.items():
        shares = recipe.phase(name).sources
        assert sum(shares.values()) == pytest.approx(total, abs=0.15)  # the table's rounding
        for source, expected in percent.get(name, {}).items():
            assert 100 * shares[source] / total == pytest.approx(expected, abs=0.1), source  # of rounded tokens
    assert set().union(*(phase.sources for phase in recipe.phases)) == SOURCES
    assert {name for name, source in recipe.data.sources.items() if source.tempered} == {"fineweb2"}
    assert set(recipe.data.sources) == SOURCES


@pytest.mark.parametrize("recipe", MMBERT, indirect=True)
def test_unpublished_decay_mixtures_fit_the_published_language_counts(recipe: Recipe) -> None:
    """Billions of tokens of English and of code, from statistics/language_counts.csv of the official repository."""
    all_english = ("dclm_dolmino", "arxiv", "tulu_flan", "dolmino_math", "books", "prolong_textbooks")
    megawika_english = 13.63 - sum(recipe.phase("decay_cont").sources[source] for source in all_english)
    assert 0 < megawika_english < recipe.phase("decay_cont").sources["megawika"]
    for name, english, code in (("decay_eng", 18.67, 3.26), ("decay_all", 11.59, 6.29)):
        shares = recipe.phase(name).sources
        assert sum(shares.get(source, 0) for source in all_english) + megawika_english == pytest.approx(
            english, abs=0.1
        )
        assert shares["starcoder"] + shares["prolong_code"] == pytest.approx(code, abs=0.1)


@pytest.mark.parametrize("recipe", [*MMBERT, "tiny"], indirect=True)
def test_the_three_decays_are_merged(recipe: Recipe) -> None:
    assert recipe.merge is not None
    assert (recipe.merge.base, recipe.merge.models, recipe.merge.method) == ("midtrain", DECAYS, "ties")
    assert (recipe.merge.density, recipe.merge.weights, recipe.merge.scale) == (0.5, None, 1.0)


@pytest.mark.parametrize("recipe", ["tiny"], indirect=True)
def test_tiny_is_the_whole_recipe_on_a_small_model(recipe: Recipe) -> None:
    model = recipe.model
    assert (model.num_layers, model.hidden_size, model.ffn_hidden_size, model.vocab_size) == (6, 128, 192, 4096)
    assert [phase.name for phase in recipe.phases] == ["pretrain", "midtrain", *DECAYS]
    assert [recipe.origin(phase) for phase in recipe.phases] == [None, "pretrain", *["midtrain"] * 3]
    assert [phase.rope_theta for phase in recipe.phases] == [1e4, *[160_000] * 4]
    masks = [phase.mask_ratio.model_dump() for phase in recipe.phases]
    assert masks == sorted(masks, reverse=True) and masks[0] > masks[-1]
    assert recipe.phases[0].max_length < recipe.phases[1].max_length <= model.max_length
    assert sum(phase.tokens for phase in recipe.phases) < 50_000_000, "more is no run for a laptop"
    assert recipe.precision.dtype == "fp32"
