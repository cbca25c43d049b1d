"""What the precision section refuses."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from megatron_mmbert.config.precision import PrecisionConfig
from megatron_mmbert.config.recipe import Recipe


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"fp8": "current"}, "fp8 current works on bf16 weights; set dtype to bf16"),
        ({"layers": "te"}, "layers te works on bf16 weights; set dtype to bf16"),
        (
            {"dtype": "bf16", "fp8": "current", "deterministic": True},
            "a probe chooses it by its speed; name the linear layers in fp8_linear_layers",
        ),
        ({"dtype": "bf16", "fp8": "block", "layers": "torch"}, "fp8 block needs Transformer Engine's linear layers"),
    ],
)
def test_fp8_and_its_layers_fit_together(wish: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PrecisionConfig.model_validate(wish)
    assert PrecisionConfig().fp8 == "none", "never by default"


def test_no_value_is_a_word_that_yaml_takes_for_a_truth_value() -> None:
    """``compile: off`` in a recipe would be False."""
    schema = PrecisionConfig.model_json_schema()
    values = {value for field in schema["properties"].values() for value in field.get("enum", [])}
    assert "bf16" in values and not values & {"on", "off", "yes", "no", "y", "n"}


def test_light_recompute_is_of_pytorchs_linear_layers() -> None:
    assert PrecisionConfig(dtype="bf16").recompute_problem("light") is None
    for wish in ({"layers": "te"}, {"fp8": "block"}):
        precision = PrecisionConfig.model_validate({"dtype": "bf16", **wish})
        assert "parallel.recompute light drops the inputs" in (precision.recompute_problem("light") or "")
        assert precision.recompute_problem("full") is None


@pytest.mark.parametrize(
    ("wish", "layout", "message"),
    [
        (
            {"fp8": "block"},
            {"tensor": 2},
            "fc2 has 576 inputs on each of 2 tensor-parallel ranks; change fp8, parallel",
        ),
        ({"fp8": "block"}, {"tensor": 2}, r"or fp8_linear_layers \(to \[qkv, proj, fc1\]\)"),
        ({"fp8": "block", "fp8_linear_layers": ["fc2"]}, {"tensor": 2}, "fc2 has 576 .*change fp8 or parallel.t"),
        ({"fp8": "block"}, {"tensor": 2, "sequence": True}, "a pack has 64 tokens on a rank"),
        ({"fp8": "block", "fp8_linear_layers": ["qkv", "fc1"]}, {"tensor": 2}, None),
        ({"fp8": "block"}, {}, None),
        ({"fp8": "current"}, {"tensor": 4, "sequence": True}, None),
    ],
)
def test_fp8_fits_the_shapes(wish: dict[str, Any], layout: dict[str, Any], message: str | None) -> None:
    """Said when the recipe is read: the library would say it in the first step, or quantize nothing."""
    batch = {"tokens_per_step": 256, "tokens_per_micro_batch": 128}
    phase = {"name": "one", "tokens": 1000, "mask_ratio": 0.3, "max_length": 128, "lr": 1e-3, "batch": batch}
    rest = {"name": "x", "model": {}, "tokenizer": {"path": "t"}, "data": {"stores": ["s"]}, "phases": [phase]}
    values = {**rest, "precision": {"dtype": "bf16", **wish}, "parallel": layout}
    if message is None:
        Recipe.model_validate(values)
        return
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate(values)
