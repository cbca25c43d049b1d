"""Names and row orders in both worlds."""

from __future__ import annotations

import pytest
import torch
from transformers import ModernBertConfig, ModernBertForMaskedLM

from megatron_mmbert.convert.name_mapping import (
    TIED_DECODER,
    TOKEN_TABLE,
    from_hf,
    hf_name,
    megatron_name,
    parameter_names,
    to_hf,
)

QKV = "encoder.layers.3.self_attention.linear_qkv.weight"


def theirs(layers: int) -> dict[str, torch.Tensor]:
    """transformers' own tensors of mmBERT-small's shape, without memory for them."""
    sizes = {"vocab_size": 256_000, "hidden_size": 384, "intermediate_size": 1152, "num_attention_heads": 6}
    with torch.device("meta"):
        return ModernBertForMaskedLM(ModernBertConfig(num_hidden_layers=layers, **sizes)).state_dict()


def test_the_names_are_those_of_transformers() -> None:
    ours = {hf_name(name) for name in parameter_names(22)} | {TIED_DECODER}
    assert len(ours) == 138
    assert ours == set(theirs(22))


@pytest.mark.parametrize("layers", [1, 2, 6])
def test_names_go_there_and_back(layers: int) -> None:
    names = parameter_names(layers)
    assert len(names) == len(set(names)) == 6 + 6 * layers - 1
    assert "encoder.layers.0.input_layernorm.weight" not in names
    assert [megatron_name(hf_name(name)) for name in names] == names
    assert megatron_name(TIED_DECODER) == megatron_name(TOKEN_TABLE) == "embedding.word_embeddings.weight"


@pytest.mark.parametrize("name", ["encoder.layers.1.mlp.linear_fc1.bias", "pooler.weight", "encoder.layers.x.y", ""])
def test_strangers_are_refused(name: str) -> None:
    with pytest.raises(KeyError):
        hf_name(name)
    with pytest.raises(KeyError):
        megatron_name(name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [1, 3, 6])
def test_no_bit_changes_there_and_back(heads: int, dtype: torch.dtype) -> None:
    """On bit patterns, so that a NaN's payload or a negative zero counts too."""
    bits = torch.randint(-(2**15), 2**15, (3 * heads * 4 * heads, 4 * heads), dtype=torch.int16)
    tensor = bits.view(torch.bfloat16) if dtype == torch.bfloat16 else bits.repeat(1, 2).view(torch.float32)
    for name in (QKV, "encoder.layers.3.mlp.linear_fc1.weight", "output_layer.bias"):
        for there, back in ((to_hf, from_hf), (from_hf, to_hf)):
            result = back(name, there(name, tensor, heads), heads)
            assert result.shape == tensor.shape
            assert torch.equal(result.contiguous().view(torch.int16), tensor.view(torch.int16))


def test_only_the_fused_qkv_changes_its_order() -> None:
    tensor = torch.arange(24.0).view(12, 2)
    for name in parameter_names(4):
        same = torch.equal(to_hf(name, tensor, 2), tensor)
        assert same is not name.endswith("linear_qkv.weight"), name


def test_rows_of_the_fused_qkv() -> None:
    """Two heads of width 2: [head][q, k, v][width] becomes [q, k, v][head][width]."""
    megatron = ["q00", "q01", "k00", "k01", "v00", "v01", "q10", "q11", "k10", "k11", "v10", "v11"]
    hugging_face = ["q00", "q01", "q10", "q11", "k00", "k01", "k10", "k11", "v00", "v01", "v10", "v11"]
    rows = torch.arange(12).view(12, 1)
    assert [megatron[row] for row in to_hf(QKV, rows, 2).flatten()] == hugging_face
    assert [hugging_face[row] for row in from_hf(QKV, rows, 2).flatten()] == megatron
