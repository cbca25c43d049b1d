"""Names and row orders in both worlds."""

from __future__ import annotations

import pytest
import torch
from transformers import ModernBertConfig, ModernBertForMaskedLM

from megatron_mmbert.convert.name_mapping import (
    HF_TIED_DECODER,
    HF_WORD_EMBEDDING,
    hf_names,
    reorder_rows_for_hf,
    reorder_rows_for_megatron,
)
from megatron_mmbert.model.parameter_names import parameter_names

QKV = "encoder.layers.3.self_attention.linear_qkv.weight"


def theirs(layers: int) -> dict[str, torch.Tensor]:
    """transformers' own tensors of mmBERT-small's shape, without memory for them."""
    sizes = {"vocab_size": 256_000, "hidden_size": 384, "intermediate_size": 1152, "num_attention_heads": 6}
    with torch.device("meta"):
        return ModernBertForMaskedLM(ModernBertConfig(num_hidden_layers=layers, **sizes)).state_dict()


def test_the_names_are_those_of_transformers() -> None:
    ours = {*hf_names(22).values(), HF_TIED_DECODER}
    assert len(ours) == 138
    assert ours == set(theirs(22))


@pytest.mark.parametrize("layers", [1, 2, 6])
def test_names_go_there_and_back(layers: int) -> None:
    names = parameter_names(layers)
    assert len(names) == len(set(names)) == 6 + 6 * layers - 1
    assert "encoder.layers.0.input_layernorm.weight" not in names
    theirs_of = hf_names(layers)
    ours_of = {theirs: ours for ours, theirs in theirs_of.items()}
    assert [ours_of[theirs_of[name]] for name in names] == names == list(theirs_of)
    assert ours_of[HF_WORD_EMBEDDING] == "embedding.word_embeddings.weight" and HF_TIED_DECODER not in ours_of


@pytest.mark.parametrize("name", ["encoder.layers.1.mlp.linear_fc1.bias", "pooler.weight", "encoder.layers.x.y", ""])
def test_strangers_have_no_name(name: str) -> None:
    assert name not in hf_names(4) and name not in hf_names(4).values()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [1, 3, 6])
def test_no_bit_changes_there_and_back(heads: int, dtype: torch.dtype) -> None:
    """On bit patterns, so that a NaN's payload or a negative zero counts too."""
    bits = torch.randint(-(2**15), 2**15, (3 * heads * 4 * heads, 4 * heads), dtype=torch.int16)
    tensor = bits.view(torch.bfloat16) if dtype == torch.bfloat16 else bits.repeat(1, 2).view(torch.float32)
    for name in (QKV, "encoder.layers.3.mlp.linear_fc1.weight", "output_layer.bias"):
        for there, back in (
            (reorder_rows_for_hf, reorder_rows_for_megatron),
            (reorder_rows_for_megatron, reorder_rows_for_hf),
        ):
            result = back(name, there(name, tensor, heads), heads)
            assert result.shape == tensor.shape
            assert torch.equal(result.contiguous().view(torch.int16), tensor.view(torch.int16))


def test_only_the_fused_qkv_changes_its_order() -> None:
    tensor = torch.arange(24.0).view(12, 2)
    for name in parameter_names(4):
        same = torch.equal(reorder_rows_for_hf(name, tensor, 2), tensor)
        assert same is not name.endswith("linear_qkv.weight"), name


def test_rows_of_the_fused_qkv() -> None:
    """Two heads of width 2: [head][q, k, v][width] becomes [q, k, v][head][width]."""
    megatron = ["q00", "q01", "k00", "k01", "v00", "v01", "q10", "q11", "k10", "k11", "v10", "v11"]
    hugging_face = ["q00", "q01", "q10", "q11", "k00", "k01", "k10", "k11", "v00", "v01", "v10", "v11"]
    rows = torch.arange(12).view(12, 1)
    assert [megatron[row] for row in reorder_rows_for_hf(QKV, rows, 2).flatten()] == hugging_face
    assert [hugging_face[row] for row in reorder_rows_for_megatron(QKV, rows, 2).flatten()] == megatron
