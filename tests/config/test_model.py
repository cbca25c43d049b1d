"""The model section: derived values and defaults."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from megatron_mmbert.config.model import ModelConfig


def test_the_default_model_is_mmbert_base() -> None:
    model = ModelConfig()
    assert (model.num_layers, model.hidden_size, model.head_dim, model.vocab_size) == (22, 768, 64, 256_000)
    assert [layer for layer in range(22) if model.is_global(layer)] == [0, 3, 6, 9, 12, 15, 18, 21]


@pytest.mark.parametrize("shape", [{"hidden_size": 770}, {"hidden_size": 36, "num_attention_heads": 12}])
def test_head_widths_are_whole_and_even(shape: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="must be an even multiple of num_attention_heads 12"):
        ModelConfig.model_validate(shape)
