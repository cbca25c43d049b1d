"""What the precision section refuses."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from megatron_mmbert.config.precision import PrecisionConfig


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
