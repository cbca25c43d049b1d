"""The recipe's ``model`` section: the shape of the encoder."""

from __future__ import annotations

from typing import Annotated

from pydantic import model_validator

from megatron_mmbert.config.base import SPECIAL_TOKENS_PER_SAMPLE, Section
from megatron_mmbert.config.values import Ratio, within
from megatron_mmbert.utils.bounds import MAX_LENGTH, MAX_THETA, MAX_VOCAB_SIZE

MAX_LAYERS = 1000
Theta = Annotated[float, within(1, MAX_THETA)]
"""A base of the rotary embedding."""


class ModelConfig(Section):
    """The shape of the encoder (ModernBERT with weight-only LayerNorm; paper, table of model sizes)."""

    num_layers: Annotated[int, within(1, MAX_LAYERS)] = 22
    """Transformer layers."""
    hidden_size: Annotated[int, within(1, 2**16)] = 768
    """D, the width of the residual stream."""
    ffn_hidden_size: Annotated[int, within(1, 2**18)] = 1152
    """The feed-forward width after gating; fc1 has twice as many rows."""
    num_attention_heads: Annotated[int, within(1, 2**12)] = 12
    """Attention heads of each layer; hidden_size is an even multiple of it."""
    vocab_size: Annotated[int, within(1, MAX_VOCAB_SIZE)] = 256_000
    """V, the rows of the word embedding; the tokenizer must have as many ids."""
    max_length: Annotated[int, within(SPECIAL_TOKENS_PER_SAMPLE + 1, MAX_LENGTH)] = 8192
    """The longest sample of any phase, in tokens; what the exported model declares."""
    global_attention_every: Annotated[int, within(1, MAX_LAYERS)] = 3
    """Layer i attends globally when i mod this is 0, else within the window."""
    window_each_side: Annotated[int, within(1, MAX_LENGTH)] = 64
    """Visible tokens left and right of a token in a local layer, itself not counted."""
    norm_eps: Annotated[float, within(1e-30, 0.1)] = 1e-5
    """Added to the variance in every LayerNorm."""
    attention_output_dropout: Ratio = 0.1
    """Dropout on the attention block's output; all other dropouts are 0."""
    init_std: Annotated[float, within(1e-6, 10)] = 0.02
    """The standard deviation of initial weights; 1/sqrt(2 num_layers) of it where a matrix writes into the residual
    stream."""

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelConfig:
        if self.hidden_size % self.num_attention_heads or (self.hidden_size // self.num_attention_heads) % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be an even multiple of num_attention_heads "
                f"{self.num_attention_heads}"
            )
        return self

    @property
    def head_dim(self) -> int:
        """The width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    def is_global(self, layer: int) -> bool:
        """Return whether layer ``layer`` (0-based) attends to the whole sample."""
        return layer % self.global_attention_every == 0


def linear_shapes(model: ModelConfig, tensor: int = 1) -> dict[str, tuple[int, int]]:
    """Return (inputs, outputs) of the four linear layers of a layer, on one of ``tensor`` ranks."""
    width, inner = model.hidden_size, model.ffn_hidden_size
    return {
        "qkv": (width, 3 * width // tensor),
        "proj": (width // tensor, width),
        "fc1": (width, 2 * inner // tensor),
        "fc2": (inner // tensor, width),
    }
