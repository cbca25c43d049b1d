"""Nothing reads scratch memory too late: poisoned, training and inference compute the same bits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.config.parallel import ParallelConfig, Recompute
from megatron_mmbert.config.precision import PrecisionConfig
from megatron_mmbert.inference.network import Network
from megatron_mmbert.kernels.scratch import poison_scratch
from megatron_mmbert.model.config import encoder_config
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.init import initialize
from megatron_mmbert.model.packed_sequences import PackedSequences
from megatron_mmbert.parallel import Runtime

LENGTHS = [200, 1, 155, 300]


def both(work: Callable[[], dict[str, Tensor]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    plain = work()
    poison_scratch(True)
    try:
        return plain, work()
    finally:
        poison_scratch(False)


def assert_same(plain: dict[str, Tensor], poisoned: dict[str, Tensor]) -> None:
    for name, value in plain.items():
        assert value.isfinite().all() and torch.equal(poisoned[name], value), name


def tokens() -> Tensor:
    return torch.randint(5, 4096, (sum(LENGTHS),), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("recompute", ["none", "light", "selective", "full"])
def test_training(
    recompute: Recompute,
    dtype: str,
    runtime: Runtime,
    shape: Callable[..., ModelConfig],
    pack: Callable[..., PackedSequences],
) -> None:
    precision = PrecisionConfig.model_validate({"dtype": dtype})

    def steps() -> dict[str, Tensor]:
        """Two of them: the second finds the memory that the first has left."""
        config = encoder_config(shape(), 1e4, 1e4, ParallelConfig(recompute=recompute), precision)
        encoder = Encoder(config, 4096)
        initialize(encoder, 1)
        masked = torch.arange(0, sum(LENGTHS), 3)
        losses = []
        for _ in range(2):
            losses.append(encoder.train()(tokens(), pack(LENGTHS), masked, tokens()[masked]))
            losses[-1].backward()
        gradients = {name: each.grad for name, each in encoder.named_parameters() if each.grad is not None}
        return {"losses": torch.stack(losses).detach(), **gradients}

    plain, poisoned = both(steps)
    assert len(plain) > 30
    assert_same(plain, poisoned)


def test_inference(
    build: Callable[..., Encoder], shape: Callable[..., ModelConfig], pack: Callable[..., PackedSequences]
) -> None:
    encoder = build()
    tensors = {name: each.detach() for name, each in encoder.named_parameters()}
    layout = pack(LENGTHS).layout

    def compute() -> dict[str, Tensor]:
        network = Network(shape(), (1e4, 1e4), tensors, torch.device("cpu"), torch.float32)
        with torch.inference_mode():
            hidden = network.hidden(tokens(), layout)
            return {"hidden": hidden, "scores": network.log_probabilities(hidden[::3], tokens()[::3])}

    assert_same(*both(compute))
