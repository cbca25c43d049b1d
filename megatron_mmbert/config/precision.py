"""The recipe's ``precision`` section: what the layers compute in, and by whose kernels."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from megatron_mmbert.config.base import Section

LinearName = Literal["qkv", "proj", "fc1", "fc2"]


class PrecisionConfig(Section):
    """Arithmetic of the layers; master weights and the optimizer are always fp32."""

    dtype: Literal["fp32", "bf16"] = "fp32"
    attention_local: str = "auto"
    """Attention engine of the layers with a window; ``python -m megatron_mmbert.doctor`` lists what runs here."""
    attention_global: str = "auto"
    """Attention engine of the layers that see the whole sample."""
    layers: Literal["auto", "torch", "te"] = "auto"
    """The body's linears: PyTorch's, or Transformer Engine's (``te``), which ``auto`` takes where FP8 needs them.
    Weights and checkpoints are the same."""
    fp8: Literal["none", "delayed", "current", "block"] = "none"
    """FP8 products in the body while training: scales from earlier steps, from the tensor itself, or of blocks of 128.
    Head, embedding, attention and scoring stay in bf16."""
    fp8_linears: Literal["probe"] | list[LinearName] = "probe"
    """The linears of each layer that run in FP8; ``probe`` times them at start and takes those that gain."""
    compile: Literal["auto", "none"] = "auto"
    """On a GPU, ``auto`` fuses GeGLU, rotation, dropout and the head's softmax by torch.compile; ``none`` does not."""

    @model_validator(mode="after")
    def _consistent(self) -> PrecisionConfig:
        if self.dtype != "bf16" and (self.layers == "te" or self.fp8 != "none"):
            key = "fp8" if self.fp8 != "none" else "layers"
            raise ValueError(f"{key} {getattr(self, key)} works on bf16 weights; set dtype to bf16")
        if self.fp8 != "none" and self.layers == "torch":
            raise ValueError(f"fp8 {self.fp8} needs Transformer Engine's linears; set layers to te or auto")
        return self

    def misfit(self, recompute: str, deterministic: bool) -> str | None:
        """Why other sections' values do not go with these, with the remedy; None where they do."""
        if recompute == "light" and (self.layers == "te" or self.fp8 != "none"):
            return (
                "parallel.recompute light drops the inputs of PyTorch's linears, and these are Transformer Engine's; "
                "choose recompute selective or full, or layers torch"
            )
        if deterministic and self.fp8 != "none" and self.fp8_linears == "probe":
            return (
                "numbers.deterministic fixes what runs in FP8, and a probe chooses it by its speed; name the linears "
                "in fp8_linears"
            )
        return None

    @property
    def for_scoring(self) -> PrecisionConfig:
        """The same without what is of use in training alone."""
        return self.model_copy(update={"layers": "torch", "fp8": "none"})
