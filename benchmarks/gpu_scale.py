"""At what sizes the GPU's benchmarks run: mmBERT's on a GPU, and tiny ones that try the same code on any CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from megatron_mmbert.config.model import ModelConfig

RATIOS = {1024: 0.30, 8192: 0.15}


@dataclass(frozen=True)
class Scale:
    """Sizes and repetitions.

    Attributes:
        smoke: whether only the code is tried, on tiny models.
        pack_tokens: T of a micro batch.
        micro_batches: of a step.
        steps: timed ones, after ``warm_up``.
        learning_steps: of a comparison of losses.
    """

    smoke: bool
    device: str = "cuda"
    pack_tokens: int = 65_536
    micro_batches: int = 4
    warm_up: int = 3
    steps: int = 8
    learning_steps: int = 300
    learning_tokens: int = 16_384
    texts: int = 4096

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16

    @property
    def precision(self) -> dict[str, object]:
        """The recipe's precision section to start from."""
        return {"dtype": "bf16"}

    def length(self, length: int) -> int:
        """Tokens of the longest sample where the full size has ``length``."""
        return length // 16 if self.smoke else length

    def model(self, shape: str) -> ModelConfig:
        """``base`` or ``small``, without dropout, so that peers compute the same."""
        width, sizes = {"base": 768, "small": 384}[shape], {}
        if self.smoke:
            width, sizes = width // 6, {"num_layers": 3, "ffn_hidden_size": 128, "vocab_size": 2048, "max_length": 1024}
        heads = width // 64
        return ModelConfig(hidden_size=width, num_attention_heads=heads, attention_output_dropout=0.0, **sizes)


FULL = Scale(smoke=False)
SMOKE = Scale(
    smoke=True,
    device="cpu",
    pack_tokens=1024,
    micro_batches=2,
    warm_up=1,
    steps=2,
    learning_steps=6,
    learning_tokens=512,
    texts=16,
)
