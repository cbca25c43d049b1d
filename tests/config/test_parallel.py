"""Layouts that cannot be are refused with value and remedy, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_mmbert.config.loading import load_recipe
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.utils.errors import UserError

TEXT = """\
name: x
tokenizer: {path: tok}
model: {num_layers: 4, hidden_size: 96, ffn_hidden_size: 144, num_attention_heads: 6, vocab_size: 384, max_length: 128}
data: {stores: [a]}
phases:
  - {name: one, tokens: 1M, mask_ratio: 0.3, max_length: 128, lr: 1e-3,
     batch: {tokens_per_step: 256, tokens_per_micro_batch: 128}}
"""


def load(folder: Path, *overrides: str) -> Recipe:
    path = folder / "r.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return load_recipe(path, [f"parallel.{each}" for each in overrides])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["tensor=4"], "parallel.tensor 4 does not divide model.num_attention_heads 6; choose a divisor of all of"),
        (["tensor=3", "sequence=true"], "a pack of 128 tokens does not divide by parallel.tensor 3, as"),
        (["virtual_stages=2"], "virtual_stages 2 needs pipeline 2 or more; set it to 1 or raise pipeline"),
        (["pipeline=4", "virtual_stages=2"], "is more than model.num_layers 4 with embedding and head can fill"),
        (["pipeline=2", "layers_per_stage=[1,2]"], "layers_per_stage [1, 2] adds up to 3 and model.num_layers is 4"),
        (["pipeline=2", "layers_per_stage=[4]"], "layers_per_stage has 1 numbers for 2 stages"),
        (["recompute=some"], "'none', 'light', 'selective' or 'full'"),
    ],
)
def test_refused(overrides: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, *overrides)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_taken(tmp_path: Path) -> None:
    assert load(tmp_path, "tensor=3").parallel.tensor == 3
    assert load(tmp_path, "tensor=1", "sequence=true").parallel.sequence, "means nothing on one rank, and is no error"
    assert load(tmp_path, "pipeline=2", "virtual_stages=3").parallel.stages == 6
    assert load(tmp_path, "pipeline=2", "layers_per_stage=[1,3]").parallel.layers_per_stage == [1, 3]
