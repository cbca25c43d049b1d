"""Names and row orders of the same tensors in Megatron-Core and in Hugging Face's ModernBERT.

Every mapping only renames or permutes rows: bits never change. Two matrices differ in row order. The fused QKV of
Megatron-Core is grouped per head, rows ``[head][q, k, v][width]``; Hugging Face stacks ``[q, k, v][head][width]``. The
gated fc1 agrees: the first half is activated in both.
"""

from __future__ import annotations

from torch import Tensor

from megatron_mmbert.model import parameter_names as megatron

_OUTSIDE = {
    megatron.WORD_EMBEDDING: "model.embeddings.tok_embeddings.weight",
    megatron.EMBEDDING_NORM: "model.embeddings.norm.weight",
    megatron.FINAL_NORM: "model.final_norm.weight",
    megatron.HEAD_DENSE: "head.dense.weight",
    megatron.HEAD_NORM: "head.norm.weight",
    megatron.DECODER_BIAS: "decoder.bias",
}
_IN_LAYER = {
    megatron.ATTENTION_NORM: "attn_norm.weight",
    megatron.QKV: "attn.Wqkv.weight",
    megatron.ATTENTION_OUTPUT: "attn.Wo.weight",
    megatron.MLP_NORM: "mlp_norm.weight",
    megatron.FC1: "mlp.Wi.weight",
    megatron.FC2: "mlp.Wo.weight",
}
HF_WORD_EMBEDDING = _OUTSIDE[megatron.WORD_EMBEDDING]
HF_TIED_DECODER = "decoder.weight"
"""A second name of the word embedding, in folders that store it twice."""


def hf_names(num_layers: int) -> dict[str, str]:
    """Return Hugging Face's name of every Megatron parameter, in the order of ``parameter_names``."""
    in_layers = {
        megatron.layer_parameter(layer, part): f"model.layers.{layer}.{_IN_LAYER[part]}"
        for layer in range(num_layers)
        for part in megatron.layer_parts(layer)
    }
    return _OUTSIDE | in_layers


def reorder_rows_for_hf(name: str, tensor: Tensor, heads: int) -> Tensor:
    """Return the whole Megatron tensor ``name`` in Hugging Face's row order."""
    if not name.endswith(megatron.QKV):
        return tensor
    return tensor.view(heads, 3, -1, tensor.shape[1]).transpose(0, 1).reshape(tensor.shape)


def reorder_rows_for_megatron(name: str, tensor: Tensor, heads: int) -> Tensor:
    """Return a Hugging Face tensor in the row order of the Megatron parameter ``name``."""
    if not name.endswith(megatron.QKV):
        return tensor
    return tensor.view(3, heads, -1, tensor.shape[1]).transpose(0, 1).reshape(tensor.shape)
