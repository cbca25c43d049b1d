"""The encoder on one screen: :class:`EncoderLayer` is a layer, :class:`Encoder` all of them and the loss.

::

    x = norm(embedding[tokens])                                          embedding_and_head.py
    for each layer:
        h = x + dropout(attention(norm(x)))                              layers.py; layer 0 has no norm here
        x = h + mlp(norm(h))                                             mlp(y) = fc2(gelu(a) * b), a and b = fc1(y)
    x = norm(x)
    loss = sum(cross_entropy(norm(gelu(dense(x[masked]))) @ embedding.T + bias, labels))

``attention(y) = proj(softmax(rotate(q) @ rotate(k).T / sqrt(d)) @ v)`` with ``q, k, v = qkv(y)``, within each sequence
of the pack, in two of three layers within a window. Norms have a weight and no bias, and the decoder has the only bias.

:mod:`megatron_mmbert.inference.network` is the same network without sharding, in plain torch, for trained weights.
Here the layers are Megatron-Core's: its ``TransformerBlock`` has the layers of this pipeline stage, its linear layers
have the rows or columns of this tensor-parallel rank. What saves memory is in :mod:`.memory_saving`, an idea a file.

Shape letters: T packed tokens of one micro batch, D model width, H heads, K masked positions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from megatron.core.enums import ModelType
from megatron.core.models.common.language_module.language_module import LanguageModule
from megatron.core.tensor_parallel.mappings import (
    gather_from_sequence_parallel_region,
    gather_from_tensor_model_parallel_region,
)
from megatron.core.transformer import TransformerLayer
from megatron.core.transformer.transformer_block import TransformerBlock
from torch import Tensor

from megatron_mmbert.model.config import EncoderConfig
from megatron_mmbert.model.embedding_and_head import Decoder, HeadTransform, TokenEmbedding
from megatron_mmbert.model.layers import block_spec, resolve_engines
from megatron_mmbert.model.memory_saving.in_place_sum import in_place_sum
from megatron_mmbert.model.memory_saving.masked_rows import MaskedRows, may_leave_rows_out
from megatron_mmbert.model.memory_saving.recompute import checkpointed
from megatron_mmbert.model.memory_saving.tied_embedding_grad import TiedEmbeddingGrad
from megatron_mmbert.model.packed_sequences import PackedSequences


class EncoderLayer(TransformerLayer):
    """One layer: attention and MLP, each of the norm of what comes in, each added to it (pre-norm)."""

    def forward(self, hidden_states: Tensor, packed_seq_params: PackedSequences, **_: Any) -> tuple[Tensor, None]:
        """Return the layer's output, [T, 1, D], of all rows or of the wanted ones; None is Megatron-Core's context.

        Args:
            hidden_states: x, [T, 1, D]; T is this rank's share of the pack under sequence parallelism.
        """
        x, packed = hidden_states, packed_seq_params
        rows = packed.rows_of(self.layer_number)
        attended = self.self_attention(self.input_layernorm(x), packed)
        h = in_place_sum(attended, x if rows is None else rows.of(x))
        x = in_place_sum(self._mlp(self.pre_mlp_layernorm(h)), h)
        return x, None

    def _mlp(self, y: Tensor) -> Tensor:
        """Return the MLP of ``y``, computed again in the backward pass under ``parallel.recompute: selective``."""
        output, _ = checkpointed(self.mlp, y, self.config, self.tp_group) if self.recompute_mlp else self.mlp(y)
        return output


class Encoder(LanguageModule):
    """A ModernBERT-style masked language model on one pipeline stage."""

    def __init__(
        self,
        config: EncoderConfig,
        vocab_size: int,
        pre_process: bool = True,
        post_process: bool = True,
        vp_stage: int | None = None,
    ) -> None:
        resolve_engines(config)
        super().__init__(config)
        self.vp_stage = vp_stage  # which of the pipeline rank's chunks this is, under interleaving
        self.model_type = ModelType.encoder_or_decoder  # asked for by the pipeline schedules
        self.pre_process, self.post_process = pre_process, post_process
        self.vocab_size = vocab_size
        self.share_embeddings_and_output_weights = True
        if pre_process:
            self.embedding = TokenEmbedding(config, vocab_size)
        self.encoder = TransformerBlock(
            config,
            block_spec(config, EncoderLayer, vp_stage),
            pre_process=pre_process,
            post_process=post_process,
            vp_stage=vp_stage,
        )
        if post_process:
            self.head = HeadTransform(config)
            self.output_layer = Decoder(
                config.hidden_size,
                vocab_size,
                config=config,
                init_method=config.init_method,
                bias=True,
                skip_weight_param_allocation=pre_process,
            )
        if pre_process or post_process:
            self.setup_embeddings_and_output_layer()

    def set_input_tensor(self, input_tensor: Any) -> None:
        """Take what the stage before sent; called by Megatron-Core's pipeline schedules."""
        self.encoder.set_input_tensor(input_tensor[0] if isinstance(input_tensor, list) else input_tensor)

    def forward(
        self,
        tokens_T: Tensor,
        packed: PackedSequences,
        masked_index_K: Tensor | None = None,
        label_K: Tensor | None = None,
    ) -> Tensor:
        """Return the summed MLM loss on the last stage if labels are given, else hidden states [T, 1, D].

        Hidden states are after the final norm on the last stage, elsewhere what the next stage takes in.
        """
        if not self.post_process or masked_index_K is None or label_K is None:
            return self._hidden(tokens_T, packed)
        # Where lookup and decoder are on one stage, they share the gradient of their one matrix.
        tied_grad = TiedEmbeddingGrad() if self.pre_process else None
        rows = self._masked_rows(masked_index_K, len(tokens_T))
        hidden = self._hidden(tokens_T, replace(packed, masked_rows=rows), tied_grad)
        if rows is None:
            hidden = self._all_rows(hidden)[masked_index_K]
        return self._loss(hidden, label_K, tied_grad)[0]

    def _hidden(self, tokens_T: Tensor, packed: PackedSequences, tied_grad: TiedEmbeddingGrad | None = None) -> Tensor:
        x_T1D = self.embedding(tokens_T, tied_grad) if self.pre_process else None
        return self.encoder(x_T1D, attention_mask=None, packed_seq_params=packed)

    def _masked_rows(self, index_K: Tensor, total: int) -> MaskedRows | None:
        """Return the rows that the last layer computes, or None for all: also where it is on an earlier stage."""
        layers, last = self.encoder.layers, self.config.num_layers
        is_here = bool(len(layers)) and layers[-1].layer_number == last
        return MaskedRows(index_K, total, last) if is_here and may_leave_rows_out(self.config) else None

    def loss(self, hidden_T1D: Tensor, masked_index_K: Tensor, label_K: Tensor) -> tuple[Tensor, Tensor]:
        """Return the MLM loss at the masked positions: its differentiable sum, and each position's, in nats (fp32)."""
        return self._loss(self._all_rows(hidden_T1D)[masked_index_K], label_K)

    def _loss(
        self, hidden_K1D: Tensor, label_K: Tensor, tied_grad: TiedEmbeddingGrad | None = None
    ) -> tuple[Tensor, Tensor]:
        x_KD = self.head(hidden_K1D.squeeze(1))
        return self.output_layer(x_KD, self.shared_embedding_or_output_weight(), label_K, tied_grad)

    def _all_rows(self, hidden_T1D: Tensor) -> Tensor:
        """Return the rows of all tokens where sequence parallelism has spread them over ranks.

        Each rank then computes on all of them, so their gradient is whole on every rank and each takes its own part.
        """
        if not self.config.sequence_parallel:
            return hidden_T1D
        return gather_from_sequence_parallel_region(hidden_T1D, tensor_parallel_output_grad=False)

    def logits(self, hidden_T1D: Tensor) -> Tensor:
        """Return logits [T, V] of every position over the whole vocabulary; for evaluation and parity checks."""
        x_TD = self.head(self._all_rows(hidden_T1D).squeeze(1))
        local_TV = F.linear(x_TD, self.shared_embedding_or_output_weight(), self.output_layer.bias)
        return gather_from_tensor_model_parallel_region(local_TV)
