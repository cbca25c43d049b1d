"""The recipe's ``precision`` section: what the layers compute in, and by whose kernels."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import model_validator

from megatron_mmbert.config.base import Section
from megatron_mmbert.config.model import ModelConfig, linear_shapes
from megatron_mmbert.config.parallel import Recompute

Dtype = Literal["fp32", "bf16"]
LinearName = Literal["qkv", "proj", "fc1", "fc2"]
LINEAR_NAMES = get_args(LinearName)
# Transformer Engine's quantizers: a scale for each block of 128 x 128; else cuBLAS' alignment of 16 bytes.
_FP8_MULTIPLES = {"delayed": 16, "current": 16, "block": 128}


class PrecisionConfig(Section):
    """The arithmetic of the layers; master weights and the optimizer are always fp32."""

    dtype: Dtype = "fp32"
    """The type of weights and activations."""
    attention_local: str = "auto"
    """Attention engine of the layers with a window; ``python -m megatron_mmbert.doctor`` lists what runs here."""
    attention_global: str = "auto"
    """Attention engine of the layers that see the whole sample."""
    layers: Literal["auto", "torch", "te"] = "auto"
    """The linear layers: PyTorch's, or Transformer Engine's (``te``), which ``auto`` takes where FP8 needs them.
    Weights and checkpoints are the same."""
    fp8: Literal["none", "delayed", "current", "block"] = "none"
    """FP8 products of the linear layers while training: scales from earlier steps, from the tensor itself, or of blocks
    of 128. Head, embedding, attention and scoring stay in bf16."""
    fp8_linear_layers: Literal["probe"] | list[LinearName] = "probe"
    """The linear layers of each transformer layer that run in FP8; ``probe`` times them at start and takes those that
    gain."""
    compile: Literal["auto", "none"] = "auto"
    """On a GPU, ``auto`` fuses GeGLU, rotation, dropout and the head's softmax by torch.compile; ``none`` does not."""
    deterministic: bool = False
    """On GPUs too the same recipe, layout and devices give the same bits: attention engines in a fixed order, and no
    kernel that adds in the order its threads come. Slower."""

    @model_validator(mode="after")
    def _consistent(self) -> PrecisionConfig:
        if self.dtype != "bf16" and (self.layers == "te" or self.fp8 != "none"):
            key = "fp8" if self.fp8 != "none" else "layers"
            raise ValueError(f"{key} {getattr(self, key)} works on bf16 weights; set dtype to bf16")
        if self.fp8 != "none" and self.layers == "torch":
            raise ValueError(f"fp8 {self.fp8} needs Transformer Engine's linear layers; set layers to te or auto")
        if self.deterministic and self.fp8 != "none" and self.fp8_linear_layers == "probe":
            raise ValueError(
                "deterministic fixes what runs in FP8, and a probe chooses it by its speed; name the linear layers in "
                "fp8_linear_layers"
            )
        return self

    def recompute_problem(self, recompute: Recompute) -> str | None:
        """Return why ``parallel.recompute`` does not go with these layers, with the remedy; None where it does."""
        if recompute == "light" and (self.layers == "te" or self.fp8 != "none"):
            return (
                "parallel.recompute light drops the inputs of PyTorch's linear layers, and these are Transformer "
                "Engine's; choose recompute selective or full, or layers torch"
            )
        return None

    def fp8_problem(self, model: ModelConfig, tensor: int, rows: int) -> str | None:
        """Return why the linear layers cannot multiply in FP8, with the remedy; None where they can.

        Args:
            tensor: ranks that share each linear layer.
            rows: tokens of a pack on one rank.
        """
        if self.fp8 == "none":
            return None
        multiple = _FP8_MULTIPLES[self.fp8]
        names = list(LINEAR_NAMES) if self.fp8_linear_layers == "probe" else self.fp8_linear_layers
        if names and rows % multiple:
            return (
                f"fp8 {self.fp8} multiplies rows in multiples of {multiple}, and a pack has {rows} tokens on a "
                "rank; change the size of a pack"
            )
        shapes = linear_shapes(model, tensor)
        fitting = [name for name in names if all(size % multiple == 0 for size in shapes[name])]
        for name in names:
            for side, size in zip(("inputs", "outputs"), shapes[name], strict=True):
                if size % multiple:
                    ranks = f" on each of {tensor} tensor-parallel ranks" if tensor > 1 else ""
                    remedy = f", parallel.tensor or fp8_linear_layers (to [{', '.join(fitting)}])"
                    return (
                        f"fp8 {self.fp8} takes widths in multiples of {multiple}, and {name} has {size} {side}{ranks}; "
                        f"change fp8{remedy if fitting else ' or parallel.tensor'}"
                    )
        return None

    @property
    def for_scoring(self) -> PrecisionConfig:
        """These settings without those of use in training alone."""
        return self.model_copy(update={"layers": "torch", "fp8": "none"})
