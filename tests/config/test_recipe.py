"""The recipe's sections: derived values and defaults."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.utils.errors import UserError


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
    with pytest.raises(UserError, match=r"recipe 'x': no phase 'dd' \(did you mean 'd'\?\); choose from a, b, c, d"):
        three.phase("dd")


def test_values_cannot_change_after_validation() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        recipe(phase()).seed = 3  # type: ignore[misc]
