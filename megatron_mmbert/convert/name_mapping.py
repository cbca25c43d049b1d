"""Names and layouts of one tensor in both worlds. Every mapping only renames or permutes rows: bits never change.

Two matrices differ in layout. The fused QKV of Megatron-Core is grouped per head, rows ``[head][q, k, v][width]``;
Hugging Face stacks ``[q, k, v][head][width]``. The gated fc1 agrees: the first half is activated in both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor

_OUTSIDE = {
    "embedding.word_embeddings.weight": "model.embeddings.tok_embeddings.weight",
    "embedding.norm.weight": "model.embeddings.norm.weight",
    "encoder.final_layernorm.weight": "model.final_norm.weight",
    "head.dense.weight": "head.dense.weight",
    "head.norm.weight": "head.norm.weight",
    "output_layer.bias": "decoder.bias",
}
_IN_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attention.linear_qkv.weight": "attn.Wqkv.weight",
    "self_attention.linear_proj.weight": "attn.Wo.weight",
    "pre_mlp_layernorm.weight": "mlp_norm.weight",
    "mlp.linear_fc1.weight": "mlp.Wi.weight",
    "mlp.linear_fc2.weight": "mlp.Wo.weight",
}
TIED_DECODER = "decoder.weight"
TOKEN_TABLE = _OUTSIDE["embedding.word_embeddings.weight"]
_MEGATRON_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)")
_HF_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


def hf_name(name: str) -> str:
    """Hugging Face's name of a Megatron parameter (layers counted over all stages); KeyError for a stranger."""
    match = _MEGATRON_LAYER.fullmatch(name)
    return f"model.layers.{match[1]}.{_IN_LAYER[match[2]]}" if match else _OUTSIDE[name]


def megatron_name(name: str) -> str:
    """The inverse of :func:`hf_name`; the tied decoder weight is the token table."""
    if name == TIED_DECODER:
        name = TOKEN_TABLE
    match = _HF_LAYER.fullmatch(name)
    if match:
        return f"encoder.layers.{match[1]}.{_inverse(_IN_LAYER)[match[2]]}"
    return _inverse(_OUTSIDE)[name]


def _inverse(names: dict[str, str]) -> dict[str, str]:
    return {theirs: ours for ours, theirs in names.items()}


def parameter_names(num_layers: int) -> list[str]:
    """Every Megatron parameter of an encoder with that many layers; layer 0 has no attention norm."""
    layers: Iterable[str] = (
        f"encoder.layers.{layer}.{part}"
        for layer in range(num_layers)
        for part in _IN_LAYER
        if layer or part != "input_layernorm.weight"
    )
    return [*_OUTSIDE, *layers]


def to_hf(name: str, tensor: Tensor, heads: int) -> Tensor:
    """A whole Megatron tensor in Hugging Face's row order."""
    if not name.endswith("linear_qkv.weight"):
        return tensor
    return tensor.view(heads, 3, -1, tensor.shape[1]).transpose(0, 1).reshape(tensor.shape)


def from_hf(name: str, tensor: Tensor, heads: int) -> Tensor:
    """A Hugging Face tensor in the row order of the Megatron parameter ``name``."""
    if not name.endswith("linear_qkv.weight"):
        return tensor
    return tensor.view(3, heads, -1, tensor.shape[1]).transpose(0, 1).reshape(tensor.shape)
