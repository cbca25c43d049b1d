"""The recipe's sections: derived values and defaults."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from megatron_mmbert.config.recipe import ModelConfig, Phase, Recipe


def phase(**more: Any) -> dict[str, Any]:
    batch = {"tokens_per_step": 256, "tokens_per_micro_batch": 128}
    return {"name": "one", "tokens": 1000, "mask_ratio": 0.3, "max_length": 128, "lr": 1e-3, "batch": batch, **more}


def recipe(*phases: dict[str, Any]) -> Recipe:
    rest = {"name": "x", "model": {}, "tokenizer": {"path": "t"}, "data": {"stores": ["s"]}}
    return Recipe.model_validate({**rest, "phases": list(phases)})


def test_a_phase_starts_from_the_one_before_it_unless_it_says_otherwise() -> None:
    three = recipe(
        phase(name="a"), phase(name="b"), phase(name="c", **{"from": "a"}), phase(name="d", **{"from": "scratch"})
    )
    assert [three.origin(each) for each in three.phases] == [None, "a", "a", None]
    assert three.phase("c") is three.phases[2]
    with pytest.raises(KeyError):
        three.phase("e")


def test_local_theta_follows_the_global_one() -> None:
    assert Phase.model_validate(phase(rope_theta=160_000)).theta_local == 160_000
    assert Phase.model_validate(phase(rope_theta=160_000, rope_theta_local=10_000)).theta_local == 10_000


def test_language_sets_become_codes() -> None:
    languages = Phase.model_validate(phase(languages=["@mmbert_pretrain", "fao"])).languages
    assert isinstance(languages, list)
    assert len(languages) == 62
    assert languages[-1] == "fao"
    assert Phase.model_validate(phase(languages="all")).languages == "all"


def test_the_default_model_is_mmbert_base() -> None:
    model = ModelConfig()
    assert (model.num_layers, model.hidden_size, model.head_dim, model.vocab_size) == (22, 768, 64, 256_000)
    assert [layer for layer in range(22) if model.is_global(layer)] == [0, 3, 6, 9, 12, 15, 18, 21]


@pytest.mark.parametrize("shape", [{"hidden_size": 770}, {"hidden_size": 36, "num_attention_heads": 12}])
def test_head_widths_are_whole_and_even(shape: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="must be an even multiple of num_attention_heads 12"):
        ModelConfig.model_validate(shape)


def test_values_cannot_change_after_validation() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        recipe(phase()).seed = 3  # type: ignore[misc]
