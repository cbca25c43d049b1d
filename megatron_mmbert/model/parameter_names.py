"""Megatron-Core's names of the encoder's parameters, and the shapes of the whole tensors.

Layers are counted over all pipeline stages, and the word embedding, which the decoder is tied to, has one name: a
checkpoint has these names whatever layout saved it.
"""

from __future__ import annotations

from megatron_mmbert.config.model import ModelConfig

WORD_EMBEDDING = "embedding.word_embeddings.weight"
EMBEDDING_NORM = "embedding.norm.weight"
FINAL_NORM = "encoder.final_layernorm.weight"
HEAD_DENSE = "head.dense.weight"
HEAD_NORM = "head.norm.weight"
DECODER_BIAS = "output_layer.bias"
DECODER = "output_layer.weight"
"""The copy of the word embedding that the last pipeline stage holds; never stored."""

# Within a layer
ATTENTION_NORM = "input_layernorm.weight"
QKV = "self_attention.linear_qkv.weight"
ATTENTION_OUTPUT = "self_attention.linear_proj.weight"
MLP_NORM = "pre_mlp_layernorm.weight"
FC1 = "mlp.linear_fc1.weight"
FC2 = "mlp.linear_fc2.weight"

_OUTSIDE = (WORD_EMBEDDING, EMBEDDING_NORM, FINAL_NORM, HEAD_DENSE, HEAD_NORM, DECODER_BIAS)
_IN_LAYER = (ATTENTION_NORM, QKV, ATTENTION_OUTPUT, MLP_NORM, FC1, FC2)


def layer_parameter(layer: int, part: str) -> str:
    """Return the name of ``part``, such as :data:`QKV`, of a layer (0-based)."""
    return f"encoder.layers.{layer}.{part}"


def layer_parts(layer: int) -> tuple[str, ...]:
    """Return the parts of a layer (0-based); layer 0 has no attention norm."""
    return tuple(part for part in _IN_LAYER if layer or part != ATTENTION_NORM)


def parameter_names(num_layers: int) -> list[str]:
    """Return the name of every parameter of an encoder with that many layers."""
    layers = (layer_parameter(layer, part) for layer in range(num_layers) for part in layer_parts(layer))
    return [*_OUTSIDE, *layers]


def parameter_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by name, in the order of :func:`parameter_names`."""
    width, ffn = model.hidden_size, model.ffn_hidden_size
    outside = ((model.vocab_size, width), (width,), (width,), (width, width), (width,), (model.vocab_size,))
    in_layer: dict[str, tuple[int, ...]] = {
        ATTENTION_NORM: (width,),
        QKV: (3 * width, width),
        ATTENTION_OUTPUT: (width, width),
        MLP_NORM: (width,),
        FC1: (2 * ffn, width),
        FC2: (width, ffn),
    }
    shapes: dict[str, tuple[int, ...]] = dict(zip(_OUTSIDE, outside, strict=True))
    for layer in range(model.num_layers):
        shapes |= {layer_parameter(layer, part): in_layer[part] for part in layer_parts(layer)}
    return shapes
