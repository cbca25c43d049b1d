"""The encoder for inference alone: the network of :mod:`megatron_mmbert.model.encoder` in plain torch, not sharded.

Weights are those of the exported folder in Megatron-Core's row order; what comes out equals transformers' ModernBERT.
Shape letters: T packed tokens, D width, H heads, K rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from megatron_mmbert.attention import AUTO, Engine, Request, SequenceLayout, choose
from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.kernels import fp32_matmul
from megatron_mmbert.kernels.geglu import geglu
from megatron_mmbert.model import rope
from megatron_mmbert.model.memory_saving.chunked_cross_entropy import chunked_cross_entropy
from megatron_mmbert.model.parameter_names import (
    ATTENTION_NORM,
    ATTENTION_OUTPUT,
    DECODER_BIAS,
    EMBEDDING_NORM,
    FC1,
    FC2,
    FINAL_NORM,
    HEAD_DENSE,
    HEAD_NORM,
    MLP_NORM,
    QKV,
    WORD_EMBEDDING,
    layer_parameter,
    layer_parts,
)

# What works row by row does so on a CPU in pieces that its caches hold; on other devices all rows at once.
ROWS_AT_A_TIME = {"cpu": 2048}


class Network:
    """Weights on one device and the forward pass over a pack.

    Args:
        tensors: by Megatron's names, as :func:`megatron_mmbert.convert.import_hf.read_tensors` gives them.
        thetas: rotary base of global and of local layers.
    """

    def __init__(
        self,
        model: ModelConfig,
        thetas: tuple[float, float],
        tensors: dict[str, Tensor],
        device: torch.device,
        dtype: torch.dtype,
        engine: str = AUTO,
    ) -> None:
        self.model, self.thetas, self.device = model, thetas, device
        self._tensors = {name: tensor.to(device, dtype) for name, tensor in tensors.items()}
        self._engines = {
            window: choose(
                engine, Request(device.type, dtype, model.head_dim, window, backward=False), model.num_attention_heads
            )
            for window in (None, model.window_each_side)
        }

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The weights by Megatron's names."""
        return self._tensors

    @property
    def has_head(self) -> bool:
        """True if the masked-language-model head is there, without which there are no log-probabilities."""
        return HEAD_DENSE in self._tensors

    @fp32_matmul.fastest()
    def hidden(self, tokens_T: Tensor, layout: SequenceLayout) -> Tensor:
        """Return the final hidden states [T, D] of packed sequences."""
        starts_T = layout.cu_seqlens[:-1].long()[layout.sample_of_token]
        position_T = torch.arange(len(tokens_T), device=self.device) - starts_T
        theta, theta_local = self.thetas
        tables = {base: rope.cos_sin(position_T, base, self.model.head_dim) for base in {theta, theta_local}}
        x_TD = self._norm(F.embedding(tokens_T, self._tensors[WORD_EMBEDDING]), EMBEDDING_NORM)
        qkv_TP = x_TD.new_empty(len(x_TD), 3 * self.model.hidden_size)
        for layer in range(self.model.num_layers):
            is_global = self.model.is_global(layer)
            self._layer(x_TD, qkv_TP, layer, tables[theta if is_global else theta_local], layout)
        return self._norm(x_TD, FINAL_NORM)

    def _layer(
        self, x_TD: Tensor, qkv_TP: Tensor, layer: int, tables: tuple[Tensor, Tensor], layout: SequenceLayout
    ) -> None:
        """Turn a layer's input into its output, in place; ``qkv_TP`` is overwritten."""
        names = {part: layer_parameter(layer, part) for part in layer_parts(layer)}
        window = None if self.model.is_global(layer) else self.model.window_each_side
        rows = ROWS_AT_A_TIME.get(x_TD.device.type, len(x_TD))
        for x, qkv in zip(x_TD.split(rows), qkv_TP.split(rows), strict=True):
            normed = self._norm(x, names[ATTENTION_NORM]) if layer else x
            torch.mm(normed, self._tensors[names[QKV]].t(), out=qkv)
        qkv_TH3D = qkv_TP.view(len(x_TD), self.model.num_attention_heads, 3, self.model.head_dim)
        out_TD = _attend(self._engines[window], qkv_TH3D, tables, layout, window)
        for x, out in zip(x_TD.split(rows), out_TD.split(rows), strict=True):
            x.add_(self._linear(out, names[ATTENTION_OUTPUT]))
            inner = geglu(self._linear(self._norm(x, names[MLP_NORM]), names[FC1]))
            x.add_(self._linear(inner, names[FC2]))

    @fp32_matmul.fastest()
    def log_probabilities(self, hidden_KD: Tensor, label_K: Tensor) -> Tensor:
        """Return the natural log-probability, fp32 [K], that the MLM head gives each row's label."""
        x_KD = self._norm(F.gelu(self._linear(hidden_KD, HEAD_DENSE)), HEAD_NORM)
        table, bias = (self._tensors[name] for name in (WORD_EMBEDDING, DECODER_BIAS))
        return -chunked_cross_entropy(x_KD, table, bias, label_K)[1]

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._tensors[name])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight = self._tensors[name]
        return F.layer_norm(x, weight.shape, weight, None, self.model.norm_eps)


def _attend(
    engine: Engine, qkv_TH3D: Tensor, tables: tuple[Tensor, Tensor], layout: SequenceLayout, window: int | None
) -> Tensor:
    if engine.fused is not None:
        return engine.fused(qkv_TH3D, tables, layout, window, None).flatten(1)
    q, k, v = qkv_TH3D.unbind(2)
    return engine(rope.rotate(q, *tables), rope.rotate(k, *tables), v, layout, window).flatten(1)
