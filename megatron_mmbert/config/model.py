"""The recipe's ``model`` section: the shape of the encoder."""

from __future__ import annotations

from pydantic import model_validator

from megatron_mmbert.config.base import Section
from megatron_mmbert.config.values import Positive, Ratio


class ModelConfig(Section):
    """The shape of the encoder (ModernBERT with weight-only LayerNorm; paper, table of model sizes)."""

    num_layers: Positive = 22
    """Transformer layers."""
    hidden_size: Positive = 768
    """D, the width of the residual stream."""
    ffn_hidden_size: Positive = 1152
    """The feed-forward width after gating; fc1 has twice as many rows."""
    num_attention_heads: Positive = 12
    """Attention heads of each layer; hidden_size is an even multiple of it."""
    vocab_size: Positive = 256_000
    """V, the rows of the word embedding; the tokenizer must have as many ids."""
    max_length: Positive = 8192
    """The longest sample of any phase, in tokens; what the exported model declares."""
    global_attention_every: Positive = 3
    """Layer i attends globally when i mod this is 0, else within the window."""
    window_each_side: Positive = 64
    """Visible tokens left and right of a token in a local layer, itself not counted."""
    norm_eps: float = 1e-5
    """Added to the variance in every LayerNorm."""
    attention_output_dropout: Ratio = 0.1
    """Dropout on the attention block's output; all other dropouts are 0."""
    init_std: float = 0.02
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
