"""Arithmetic of one training step, counted by formula: the one place that every speed figure uses.

A matrix product of [m, k] by [k, n] counts 2 m k n. Backward counts twice the forward. Attention counts the pairs that
the mask lets through, of all queries in every layer; the head, and the last layer after its attention, count only the
masked positions; element-wise work counts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from megatron_mmbert.config.model import ModelConfig


def training_flops(model: ModelConfig, sample_lengths: Sequence[int], scored_rows: int) -> float:
    """Return the FLOPs of forward and backward over one pack.

    Args:
        sample_lengths: tokens of each sequence.
        scored_rows: K, the masked positions, which alone reach the decoder.
    """
    width, tokens = model.hidden_size, sum(sample_lengths)
    attention_weights, mlp_weights = 4 * width * width, 3 * width * model.ffn_hidden_size
    globals_ = sum(model.is_global(layer) for layer in range(model.num_layers))
    locals_ = model.num_layers - globals_
    pairs = globals_ * sum(length * length for length in sample_lengths)
    pairs += locals_ * sum(_pairs_in_window(length, model.window_each_side) for length in sample_lengths)
    head_weights = width * width + width * model.vocab_size
    of_tokens = model.num_layers * attention_weights + (model.num_layers - 1) * mlp_weights
    forward = 2 * of_tokens * tokens + 4 * width * pairs + 2 * (mlp_weights + head_weights) * scored_rows
    return 3.0 * forward


def _pairs_in_window(length: int, window: int) -> int:
    """Return the number of pairs (i, j) of a sequence with |i - j| <= window."""
    reach = min(window, length - 1)
    return length + 2 * (reach * length - reach * (reach + 1) // 2)
