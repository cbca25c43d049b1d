"""The recipe's model section as the configuration that Megatron-Core's layers read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.config.parallel import ParallelConfig
from megatron_mmbert.config.precision import PrecisionConfig
from megatron_mmbert.model.pipeline_split import stage_layout


@dataclass
class EncoderConfig(TransformerConfig):
    """TransformerConfig with what ModernBERT's layers differ in."""

    global_attention_every: int = 3
    window_each_side: int = 64
    rope_theta: float = 10_000.0
    rope_theta_local: float = 10_000.0
    attention_local: str = "auto"
    attention_global: str = "auto"
    sample_tokens: int = 1024
    layers: str = "torch"
    fp8_linear_layers: tuple[str, ...] = ()
    light_recompute: bool = False

    def is_global(self, layer: int) -> bool:
        """Return whether layer ``layer`` (0-based, over all pipeline stages) attends to the whole sequence."""
        return layer % self.global_attention_every == 0

    def engine_of(self, layer: int) -> str:
        """Return the attention engine asked for in layer ``layer``."""
        return self.attention_global if self.is_global(layer) else self.attention_local

    def theta_of(self, layer: int) -> float:
        return self.rope_theta if self.is_global(layer) else self.rope_theta_local


def encoder_config(
    model: ModelConfig,
    rope_theta: float,
    rope_theta_local: float,
    parallel: ParallelConfig | None = None,
    precision: PrecisionConfig | None = None,
    scored_share: float = 0.3,
    sample_tokens: int = 1024,
) -> EncoderConfig:
    """Return Megatron-Core's configuration of an encoder.

    Args:
        precision: as :func:`megatron_mmbert.model.te_layers.resolve_precision` gives it.
        scored_share: the share of masked positions, which alone reach the head, for balancing pipeline stages.
        sample_tokens: length of the sequences that attention engines are timed on, where they are.

    Choices that matter: exact (erf) GELU, so Megatron's fused GeGLU, which is the tanh form, stays off; loss summed
    per token and divided once by the global count; weights are drawn by :mod:`megatron_mmbert.model.init`, not by the
    layers.
    """
    parallel, precision = parallel or ParallelConfig(), precision or PrecisionConfig()
    bf16 = precision.dtype == "bf16"
    on_cpu = not torch.cuda.is_available()
    return EncoderConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        kv_channels=model.head_dim,
        normalization="LayerNorm",
        layernorm_epsilon=model.norm_eps,
        add_bias_linear=False,
        gated_linear_unit=True,
        activation_func=F.gelu,
        bias_activation_fusion=False,
        use_te_activation_func=True,  # "the spec brings the activation": ours, see model/layers.py; TE is not needed
        hidden_dropout=model.attention_output_dropout,
        attention_dropout=0.0,
        init_method_std=model.init_std,
        init_method=_leave,
        output_layer_init_method=_leave,
        use_cpu_initialization=on_cpu,
        tensor_model_parallel_size=parallel.tensor,
        sequence_parallel=parallel.sequence and parallel.tensor > 1,
        **_pipeline(model, parallel, scored_share, on_cpu),
        **_RECOMPUTE[parallel.recompute],
        **_layers(precision),
        params_dtype=torch.bfloat16 if bf16 else torch.float32,
        pipeline_dtype=torch.bfloat16 if bf16 else torch.float32,
        bf16=bf16,
        calculate_per_token_loss=True,
        gradient_accumulation_fusion=False,
        global_attention_every=model.global_attention_every,
        window_each_side=model.window_each_side,
        rope_theta=rope_theta,
        rope_theta_local=rope_theta_local,
        attention_local=precision.attention_local,
        attention_global=precision.attention_global,
        sample_tokens=sample_tokens,
    )


_RECOMPUTE: dict[str, dict[str, Any]] = {
    "none": {},
    "light": {"light_recompute": True},  # ours: model/memory_saving/recompute.py
    "selective": {"recompute_granularity": "selective", "recompute_modules": ["core_attn", "mlp"]},
    "full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
}


# Hybrid: gradients in the format of wide range. Blocks of 128 have a scale each, so that the precise one serves both.
_FP8: dict[str, dict[str, Any]] = {
    "delayed": {
        "fp8": "hybrid",
        "fp8_recipe": "delayed",
        "fp8_amax_history_len": 1024,
        "fp8_amax_compute_algo": "max",
    },
    "current": {"fp8": "hybrid", "fp8_recipe": "tensorwise"},
    "block": {"fp8": "e4m3", "fp8_recipe": "blockwise"},
}


def _layers(precision: PrecisionConfig) -> dict[str, Any]:
    """Return the kind of the transformer layers' linear layers, and in what they multiply.

    Raises:
        ValueError: the choice is left to a probe, which has to come first.
    """
    if precision.fp8 != "none" and precision.fp8_linear_layers == "probe":
        raise ValueError("which linear layers run in FP8 is left open; see model.te_layers.resolve_precision")
    in_fp8 = tuple(precision.fp8_linear_layers) if precision.fp8 != "none" else ()
    if precision.layers != "te" and not in_fp8:
        return {}
    # Weights are cast anew for each micro batch: a cached cast would outlive an update, or a checkpoint's loading.
    settings: dict[str, Any] = {"layers": "te", "fp8_linear_layers": in_fp8, "disable_parameter_transpose_cache": True}
    return settings | (_FP8[precision.fp8] if in_fp8 else {})


def _pipeline(model: ModelConfig, parallel: ParallelConfig, scored_share: float, on_cpu: bool) -> dict[str, Any]:
    """Return the settings of the pipeline.

    Sends are never batched on gloo, where that is silently wrong, nor under interleaving, where they overlap with
    computation instead.
    """
    if parallel.pipeline == 1:
        return {}
    interleaved = parallel.virtual_stages > 1
    return {
        "pipeline_model_parallel_size": parallel.pipeline,
        "virtual_pipeline_model_parallel_size": parallel.virtual_stages if interleaved else None,
        "pipeline_model_parallel_layout": stage_layout(model, parallel.stages, parallel.layers_per_stage, scored_share),
        "batch_p2p_comm": not on_cpu and not interleaved,
        "overlap_p2p_comm": not on_cpu and interleaved,
    }


def _leave(weight: torch.Tensor) -> torch.Tensor:
    """Return ``weight`` as it is: Megatron-Core's layers only mark how it is cut over ranks."""
    return weight


def output_init_std(config: EncoderConfig) -> float:
    """Return sigma of the matrices that write into the residual stream (ModernBERT ``full_megatron`` init)."""
    return config.init_method_std / math.sqrt(2 * config.num_layers)
