"""A tiny training run: model, optimizer, one step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

from megatron_mmbert.checkpoint import training_state
from megatron_mmbert.checkpoint.metadata import CheckpointMeta
from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.config.precision import PrecisionConfig
from megatron_mmbert.model.config import encoder_config
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.init import initialize
from megatron_mmbert.model.packed_sequences import PackedSequences
from megatron_mmbert.optim.optimizer import OptimizerSettings, build_optimizer

SHAPE = {"num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 2, "vocab_size": 300}
MODEL = ModelConfig(**{**SHAPE, "max_length": 256, "attention_output_dropout": 0.0})
META = CheckpointMeta(model=MODEL, rope_theta=1e4, rope_theta_local=1e4, max_length=256, phase="pretrain")


class Run:
    """An encoder and its optimizer; each step sees its own tokens."""

    def __init__(self, seed: int, dtype: Any = "fp32", distributed: bool = False) -> None:
        config = encoder_config(MODEL, 1e4, 1e4, precision=PrecisionConfig(dtype=dtype))
        self.encoder = Encoder(config, MODEL.vocab_size)
        initialize(self.encoder, seed)
        if dtype == "bf16":
            self.encoder = self.encoder.bfloat16()
        options = DistributedDataParallelConfig(grad_reduce_in_fp32=True, use_distributed_optimizer=distributed)
        self.wrapped = DistributedDataParallel(config, options, self.encoder)
        settings = OptimizerSettings(1e-2, precision=dtype, distributed=distributed)
        self.optimizer = build_optimizer([self.wrapped], settings)
        self.step = 0

    def train(self, steps: int) -> list[float]:
        """The losses of the next ``steps`` steps."""
        return [self._step() for _ in range(steps)]

    def _step(self) -> float:
        draw = torch.Generator().manual_seed(self.step)
        tokens_T = torch.randint(5, MODEL.vocab_size, (256,), generator=draw)
        index_K = torch.arange(0, 256, 4)
        self.wrapped.zero_grad_buffer()
        self.optimizer.zero_grad()
        boundaries = torch.tensor([0, 100, 256], dtype=torch.int32)
        hidden = self.wrapped(tokens_T, PackedSequences.of(boundaries, 156)).to(next(self.encoder.parameters()).dtype)
        loss, _ = self.encoder.loss(hidden, index_K, tokens_T[index_K])
        (loss / len(index_K)).backward()
        self.wrapped.finish_grad_sync()
        self.optimizer.step()
        self.step += 1
        return loss.item() / len(index_K)

    def save(self, path: Path, with_optimizer: bool = True, **meta: Any) -> Path:
        described = META.model_copy(update={"step": self.step, **meta})
        training_state.save(path, described, self.encoder, self.optimizer if with_optimizer else None)
        return path

    def load(self, path: Path, with_optimizer: bool = True) -> None:
        training_state.load(path, self.encoder, self.optimizer if with_optimizer else None)
        self.step = training_state.read_meta(path).step

    def state(self) -> dict[str, torch.Tensor]:
        """Every weight, master and moment, by logical name and flattened, whichever optimizer holds them."""
        found = {name: value.detach().flatten().clone() for name, value in self.encoder.named_parameters()}
        inner = self.optimizer.stable_adamw
        for number, group in enumerate(inner.param_groups):
            found[f"group {number} step"] = torch.tensor(group["step"])
        for shard in self.optimizer.shards:
            found[f"{shard.name} updated"] = shard.tensor.detach().flatten().clone()
            for key, value in inner.state[shard.tensor].items():
                found[f"{shard.name} {key}"] = value.flatten().clone()
        return found


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert different == []
