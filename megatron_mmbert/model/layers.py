"""The parts of a layer, and the spec by which Megatron-Core builds them: ModernBERT's norm, attention and dropout.

Layer 0 has no attention norm (the embedding norm stands before it); layers i with i mod 3 == 0 attend to the whole
sequence, the others within a window; only the attention's output has dropout. :mod:`.encoder` puts the parts together.
"""

from __future__ import annotations

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

from megatron_mmbert.attention import ENGINES, Request, choose
from megatron_mmbert.kernels.geglu import geglu
from megatron_mmbert.model.config import EncoderConfig
from megatron_mmbert.model.dropout import output_dropout
from megatron_mmbert.model.memory_saving.recompute import (
    Recomputation,
    RecomputedColumnLinear,
    RecomputedLayerNorm,
    RecomputedRowLinear,
)
from megatron_mmbert.model.norm import WeightOnlyLayerNorm
from megatron_mmbert.model.packed_sequences import PackedSequences
from megatron_mmbert.model.rope import rotate, rotate_packed
from megatron_mmbert.model.te_layers import linear_spec


class PackedAttention(torch.nn.Module):
    """Rotates queries and keys and attends within each sequence; stands where Megatron-Core has its core attention."""

    def __init__(self, config: EncoderConfig, layer_number: int, **_: Any) -> None:
        super().__init__()
        layer = layer_number - 1  # Megatron-Core counts from 1, over all pipeline stages
        self.window_each_side = None if config.is_global(layer) else config.window_each_side
        self.rope_theta = config.theta_of(layer)
        self.layer_number = layer_number
        self.head_width = config.kv_channels or config.hidden_size // config.num_attention_heads
        self.engine = ENGINES[config.engine_of(layer)]  # resolve_engines has left no ``auto``

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
        """Return [T, H * D], or that of the wanted rows alone. No mask is needed: the pack's layout has it all."""
        packed = packed_seq_params
        cos, sin = packed.cos_sin(self.rope_theta, q_THD.shape[-1])
        out_THD = self.engine(
            rotate(q_THD, cos, sin), rotate(k_THD, cos, sin), v_THD, packed.layout, self.window_each_side
        )
        rows = packed.rows_of(self.layer_number)
        return (out_THD if rows is None else rows.of(out_THD)).flatten(1)

    def fused(self, qkv_T1P: Tensor, packed: PackedSequences) -> Tensor:
        """Return [T, 1, H * D] of the projection's output [T, 1, H * 3 * D] as it is; or of the wanted rows alone."""
        rows = packed.rows_of(self.layer_number)
        qkv_TH3D = qkv_T1P.view(len(qkv_T1P), -1, 3, self.head_width)
        cos_sin = packed.cos_sin(self.rope_theta, self.head_width)
        if self.engine.fused is None:
            out_THD = self.engine(*rotate_packed(qkv_TH3D, *cos_sin), packed.layout, self.window_each_side)
            out_THD = out_THD if rows is None else rows.of(out_THD)
        else:
            index_K = None if rows is None else rows.index_K
            out_THD = self.engine.fused(qkv_TH3D, cos_sin, packed.layout, self.window_each_side, index_K)
        return out_THD.flatten(1).unsqueeze(1)


def resolve_engines(config: EncoderConfig) -> None:
    """Choose the attention engine of each kind of layer that the model has, and write its name into ``config``.

    All ranks call it before they make a layer: where ``auto`` has to try engines it is a collective, and the layers of
    one pipeline stage are not those of another, if it has any.

    Raises:
        UserError: see :func:`megatron_mmbert.attention.choose`.
    """
    heads = config.num_attention_heads // config.tensor_model_parallel_size
    kinds = {config.is_global(layer) for layer in range(config.num_layers)}
    if True in kinds:
        config.attention_global = choose(config.attention_global, _request(config, None), heads).name
    if False in kinds:
        window = config.window_each_side
        config.attention_local = choose(config.attention_local, _request(config, window), heads).name


def engines_of(module: torch.nn.Module) -> str:
    """Return the attention engines in use for the log, such as ``cpu (local), cpu (global)``."""
    found = {"global" if each.window_each_side is None else "local": each.engine.name for each in _attentions(module)}
    return ", ".join(f"{found[kind]} ({kind})" for kind in ("local", "global") if kind in found)


def _attentions(module: torch.nn.Module) -> list[PackedAttention]:
    return [each for each in module.modules() if isinstance(each, PackedAttention)]


def _request(config: EncoderConfig, window_each_side: int | None) -> Request:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    width = config.kv_channels or config.hidden_size // config.num_attention_heads
    return Request(device, config.params_dtype, width, window_each_side, True, config.sample_tokens)


class PackedSelfAttention(SelfAttention):
    """Megatron-Core's self-attention around :class:`PackedAttention`: projections, attention, dropout."""

    def forward(self, hidden_states: Tensor, packed: PackedSequences) -> Tensor:  # type: ignore[override]
        """Return dropout(attention(y)), [T, 1, D], of y [T, 1, D]; or that of the wanted rows alone."""
        recompute = self.checkpoint_core_attention and self.training
        fused = self.core_attention.engine.fused is not None or hidden_states.is_cuda
        if not fused or recompute:
            output, _ = super().forward(hidden_states, None, packed_seq_params=packed)
        else:
            qkv, _ = self.linear_qkv(hidden_states)
            output, _ = self.linear_proj(self.core_attention.fused(qkv, packed))
        if self.training:
            rows = packed.rows_of(self.layer_number)
            output = output_dropout(output, self.config, packed.dropout_keys, self.layer_number, rows)
        return output


class GeGlu(MegatronModule):
    """The activation that Megatron-Core's MLP applies to all of fc1's output; its own fused GeGLU is the tanh form."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)

    def forward(self, inner_T1F: Tensor) -> Tensor:
        if not self.config.light_recompute:
            return geglu(inner_T1F)
        return Recomputation(lambda: geglu(inner_T1F, passing=True)).attach_to(geglu(inner_T1F, passing=True))


def layer_spec(config: EncoderConfig, layer_class: type[TransformerLayer], layer: int) -> ModuleSpec:
    """Return the spec of layer ``layer`` (0-based over all pipeline stages)."""
    linear = _linear_layers(config)
    norm = RecomputedLayerNorm if config.light_recompute else WeightOnlyLayerNorm
    return ModuleSpec(
        module=layer_class,
        submodules=TransformerLayerSubmodules(
            input_layernorm=IdentityOp if layer == 0 else norm,
            self_attention=ModuleSpec(
                module=PackedSelfAttention,
                params={"attn_mask_type": AttnMaskType.padding},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=linear["qkv"], core_attention=PackedAttention, linear_proj=linear["proj"]
                ),
            ),
            pre_mlp_layernorm=norm,
            mlp=ModuleSpec(
                module=MLP,
                submodules=MLPSubmodules(linear_fc1=linear["fc1"], linear_fc2=linear["fc2"], activation_func=GeGlu),
            ),
        ),
    )


def _linear_layers(config: EncoderConfig) -> dict[str, Any]:
    if config.layers == "te":
        return {name: linear_spec(config, name) for name in ("qkv", "proj", "fc1", "fc2")}
    light = config.light_recompute
    column = RecomputedColumnLinear if light else ColumnParallelLinear
    row = RecomputedRowLinear if light else RowParallelLinear
    return {"qkv": column, "proj": RowParallelLinear, "fc1": column, "fc2": row}


def block_spec(
    config: EncoderConfig, layer_class: type[TransformerLayer], vp_stage: int | None = None
) -> TransformerBlockSubmodules:
    """Return the layers of this pipeline stage (of chunk ``vp_stage`` under interleaving), and the final norm.

    Args:
        layer_class: puts a layer's parts together.
    """
    first = get_transformer_layer_offset(config, vp_stage)
    layers = range(first, first + get_num_layers_to_build(config, vp_stage))
    return TransformerBlockSubmodules(
        layer_specs=[layer_spec(config, layer_class, layer) for layer in layers], layer_norm=WeightOnlyLayerNorm
    )
