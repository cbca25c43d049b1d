"""Encoding on the GPU beside the CPU's."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.inference.network import Network
from megatron_mmbert.inference.run import encode_ids
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.init import logical_parameters

LENGTHS = [3, 700, 65, 1, 130, 64, 513, 2, 20, 1024]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.bfloat16, 8e-2)])
def test_embeddings_are_those_of_the_cpu(
    build: Callable[..., Encoder], model: ModelConfig, device: str, dtype: torch.dtype, tolerance: float
) -> None:
    encoder = build(dtype="fp32")
    tensors = {name: each.detach().float().cpu() for name, each in logical_parameters(encoder)}
    there, here = (
        Network(model, (1e4, 1e4), tensors, torch.device(place), kind)
        for place, kind in ((device, dtype), ("cpu", torch.float32))
    )
    draw = random.Random(0)
    samples = [[draw.randrange(5, 2048) for _ in range(length)] for length in LENGTHS]
    found, expected = (encode_ids(each, samples, pack_tokens=1024) for each in (there, here))
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
