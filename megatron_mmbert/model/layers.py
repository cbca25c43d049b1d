"""The layer spec: Megatron-Core's transformer layer with ModernBERT's norm, attention and dropout.

Layer 0 has no attention norm (the embedding norm stands before it); layers i with i mod 3 == 0 attend to the whole
sample, the others within a window; only the attention's output has dropout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import ModuleSpec, TransformerLayer, TransformerLayerSubmodules
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset
from torch import Tensor

from megatron_mmbert.attention import Request, choose
from megatron_mmbert.kernels.geglu import geglu
from megatron_mmbert.model.config import EncoderConfig
from megatron_mmbert.model.dropout import Rows, output_dropout
from megatron_mmbert.model.norm import WeightOnlyLayerNorm
from megatron_mmbert.model.packed_sequences import PackedSequences
from megatron_mmbert.model.recompute import (
    RecomputedColumnLinear,
    RecomputedLayerNorm,
    RecomputedRowLinear,
    can_be_computed_again,
)
from megatron_mmbert.model.rope import rotate
from megatron_mmbert.model.te_layers import linear_spec


class PackedAttention(torch.nn.Module):
    """Rotates queries and keys and attends within each sample; stands where Megatron-Core has its core attention."""

    def __init__(self, config: EncoderConfig, layer_number: int, **_: Any) -> None:
        super().__init__()
        layer = layer_number - 1  # Megatron-Core counts from 1, over all pipeline stages
        self.window_each_side = None if config.is_global(layer) else config.window_each_side
        self.rope_theta = config.theta_of(layer)
        self._is_last = layer_number == config.num_layers
        self.head_width = config.kv_channels or config.hidden_size // config.num_attention_heads
        heads = config.num_attention_heads // config.tensor_model_parallel_size
        self.engine = choose(config.engine_of(layer), _request(config, self.window_each_side), heads)

    def forward(
        self,
        q_THD: Tensor,
        k_THD: Tensor,
        v_THD: Tensor,
        attention_mask: Tensor | None,
        *,
        packed_seq_params: PackedSequences,
        **_: Any,
    ) -> Tensor:
        """Returns [T, H * D], or of the wanted rows alone. There is no attention mask: the pack's layout says all."""
        cos, sin = packed_seq_params.cos_sin(self.rope_theta, q_THD.shape[-1])
        out_THD = self.engine(
            rotate(q_THD, cos, sin), rotate(k_THD, cos, sin), v_THD, packed_seq_params.layout, self.window_each_side
        )
        rows_K = self.rows_of(packed_seq_params)
        return (out_THD if rows_K is None else out_THD[rows_K]).flatten(1)

    def rows_of(self, packed: PackedSequences) -> Tensor | None:
        """int64 [K], the rows wanted of this layer's output; None for all."""
        return packed.scored_K if self._is_last else None

    def fused(self, mixed_T1P: Tensor, packed: PackedSequences) -> Tensor:
        """[T, 1, H * 3 * D], the projection's output as it is -> [T, 1, H * D], or of the wanted rows alone; engines
        that have ``fused`` only."""
        if self.engine.fused is None:
            raise NotImplementedError(f"attention engine {self.engine.name!r} takes queries, keys and values apart")
        qkv_TH3D = mixed_T1P.view(len(mixed_T1P), -1, 3, self.head_width)
        tables = packed.cos_sin(self.rope_theta, self.head_width)
        out_THD = self.engine.fused(qkv_TH3D, tables, packed.layout, self.window_each_side, self.rows_of(packed))
        return out_THD.flatten(1).unsqueeze(1)


def engines_of(module: torch.nn.Module) -> str:
    """``cpu (local), cpu (global)``: the attention engines in use, for the log."""
    found = {"global" if each.window_each_side is None else "local": each.engine.name for each in _attentions(module)}
    return ", ".join(f"{found[kind]} ({kind})" for kind in ("local", "global") if kind in found)


def _attentions(module: torch.nn.Module) -> list[PackedAttention]:
    return [each for each in module.modules() if isinstance(each, PackedAttention)]


def _request(config: EncoderConfig, window_each_side: int | None) -> Request:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    width = config.kv_channels or config.hidden_size // config.num_attention_heads
    return Request(device, config.params_dtype, width, window_each_side, True, config.sample_tokens)


class PackedSelfAttention(SelfAttention):
    """Megatron-Core's self-attention with dropout on its output; where the engine can, the projection's output goes to
    it in one piece.

    Where only scored rows are wanted of the last layer, all behind its attention works on these alone: the output has
    no others, and their numbers take the place of the bias, which no layer has, to tell the residual sum.
    """

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        packed: PackedSequences = kwargs["packed_seq_params"]
        rows = self.core_attention.rows_of(packed)
        recompute = self.checkpoint_core_attention and self.training
        if self.core_attention.engine.fused is None or recompute:
            output, _ = super().forward(hidden_states, attention_mask, *args, **kwargs)
        else:
            output, _ = self.linear_proj(self.core_attention.fused(self.linear_qkv(hidden_states)[0], packed))
        if self.training:
            some = None if rows is None else Rows(rows, len(hidden_states))
            output = output_dropout(output, self.config, packed.dropout_key, self.layer_number, some)
        return output, rows


class GeGlu(MegatronModule):
    """What Megatron-Core's MLP applies to the whole of fc1's output; its own fused GeGLU is the tanh form."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)

    def forward(self, inner_T1F: Tensor) -> Tensor:
        if not self.config.light_recompute:
            return geglu(inner_T1F)
        return can_be_computed_again(geglu(inner_T1F, passing=True), lambda: geglu(inner_T1F, passing=True))


def _add(training: bool, fused: bool) -> Callable[..., Tensor]:
    def add(output_and_rows: tuple[Tensor, Tensor | None], residual: Tensor, dropout: float) -> Tensor:
        branch, rows = output_and_rows
        if rows is not None:
            residual = residual[rows]
        return residual + branch if branch.is_cuda else _AddInto.apply(branch, residual)

    return add


class _AddInto(torch.autograd.Function):
    """The sum in the memory of ``branch``, a linear's or dropout's output, which no backward pass reads."""

    @staticmethod
    def forward(ctx: Any, branch: Tensor, residual: Tensor) -> Tensor:
        return branch.data.add_(residual)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return grad, grad


def layer_spec(config: EncoderConfig, layer: int) -> ModuleSpec:
    """The spec of layer ``layer`` (0-based over all pipeline stages)."""
    linear = _linears(config)
    norm = RecomputedLayerNorm if config.light_recompute else WeightOnlyLayerNorm
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=IdentityOp if layer == 0 else norm,
            self_attention=ModuleSpec(
                module=PackedSelfAttention,
                params={"attn_mask_type": AttnMaskType.padding},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=linear["qkv"], core_attention=PackedAttention, linear_proj=linear["proj"]
                ),
            ),
            self_attn_bda=_add,
            pre_mlp_layernorm=norm,
            mlp=ModuleSpec(
                module=MLP,
                submodules=MLPSubmodules(linear_fc1=linear["fc1"], linear_fc2=linear["fc2"], activation_func=GeGlu),
            ),
            mlp_bda=_add,
        ),
    )


def _linears(config: EncoderConfig) -> dict[str, Any]:
    if config.layers == "te":
        return {name: linear_spec(config, name) for name in ("qkv", "proj", "fc1", "fc2")}
    light = config.light_recompute
    column = RecomputedColumnLinear if light else ColumnParallelLinear
    row = RecomputedRowLinear if light else RowParallelLinear
    return {"qkv": column, "proj": RowParallelLinear, "fc1": column, "fc2": row}


def block_spec(config: EncoderConfig, vp_stage: int | None = None) -> TransformerBlockSubmodules:
    """The layers of this pipeline stage (of chunk ``vp_stage`` under interleaving), and the final norm."""
    first = get_transformer_layer_offset(config, vp_stage)
    return TransformerBlockSubmodules(
        layer_specs=[layer_spec(config, first + number) for number in range(get_num_layers_to_build(config, vp_stage))],
        layer_norm=WeightOnlyLayerNorm,
    )
