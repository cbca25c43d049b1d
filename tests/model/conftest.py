"""Small encoders and packs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.config.parallel import ParallelConfig
from megatron_mmbert.model.config import encoder_config
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.init import initialize
from megatron_mmbert.model.packed_sequences import PackedSequences
from megatron_mmbert.parallel import Runtime

TINY = {
    "num_layers": 6,
    "hidden_size": 128,
    "ffn_hidden_size": 192,
    "num_attention_heads": 4,
    "vocab_size": 4096,
    "max_length": 8192,
}

Build = Callable[..., Encoder]
Pack = Callable[[Sequence[int]], PackedSequences]


@pytest.fixture
def shape() -> Callable[..., ModelConfig]:
    """The tiny preset's shape, with changes."""
    return lambda **changes: ModelConfig.model_validate({**TINY, **changes})


@pytest.fixture
def build(runtime: Runtime, shape: Callable[..., ModelConfig]) -> Build:
    """``build(theta, theta_local, loud=..., **shape)``: an encoder in evaluation mode, a function of ``seed``.

    ``loud`` draws weights far larger than the initial ones, and norms off 1, so that attention is no plain average and
    a wrong tensor in a wrong place is seen.
    """

    def build(
        theta: float = 10_000.0,
        theta_local: float | None = None,
        seed: int = 1,
        loud: bool = True,
        parallel: ParallelConfig | None = None,
        **changes: Any,
    ) -> Encoder:
        model = shape(**changes)
        encoder = Encoder(
            encoder_config(model, theta, theta_local or theta, parallel or ParallelConfig()), model.vocab_size
        ).eval()
        initialize(encoder, seed)
        if loud:
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for parameter in encoder.parameters():
                    if parameter.ndim > 1:
                        parameter.normal_(0, 0.05, generator=generator)
                    else:
                        parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
        return encoder

    return build


@pytest.fixture
def pack() -> Pack:
    """The layout of samples of these lengths, laid end to end."""

    def pack(lengths: Sequence[int]) -> PackedSequences:
        bounds = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
        return PackedSequences.of(bounds, max(lengths))

    return pack
