"""The encoder: token table, norm, Megatron-Core's transformer block, and the MLM head on scored rows only.

Shape letters: T packed tokens of one micro batch, D model width, H heads, K scored rows, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.enums import ModelType
from megatron.core.models.common.language_module.language_module import LanguageModule
from megatron.core.tensor_parallel import ColumnParallelLinear, VocabParallelEmbedding
from megatron.core.tensor_parallel.mappings import (
    gather_from_sequence_parallel_region,
    gather_from_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_block import TransformerBlock
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor

from megatron_mmbert.model.config import EncoderConfig
from megatron_mmbert.model.layers import block_spec
from megatron_mmbert.model.mlm_loss import chunked_cross_entropy
from megatron_mmbert.model.norm import WeightOnlyLayerNorm
from megatron_mmbert.model.packed_sequences import PackedSequences
from megatron_mmbert.model.tied_embedding_grad import TiedEmbeddingGrad, look_up
from megatron_mmbert.parallel import process_groups


class WordEmbedding(VocabParallelEmbedding):
    """Megatron-Core's table, which can share its gradient with the decoder."""

    def forward(self, tokens_T: Tensor, carried: TiedEmbeddingGrad | None = None) -> Tensor:  # type: ignore[override]
        """int64 [T] -> [T, 1, D], Megatron-Core's layout with a batch of one pack; under sequence parallelism only this
        rank's share of the tokens."""
        own_T = tokens_T - self.vocab_start_index
        here_T = (own_T >= 0) & (own_T < self.num_embeddings_per_partition)
        place_T = torch.where(here_T, own_T, 0)
        rows_TD = F.embedding(place_T, self.weight) if carried is None else look_up(self.weight, place_T, carried)
        if self.tp_group.size() > 1:
            rows_TD = rows_TD * here_T[:, None]
        across = (
            reduce_scatter_to_sequence_parallel_region
            if self.reduce_scatter_embeddings
            else reduce_from_tensor_model_parallel_region
        )
        return across(rows_TD[:, None], group=self.tp_group)


class TokenEmbedding(MegatronModule):
    """Token table, then LayerNorm; no position or type table, no dropout."""

    def __init__(self, config: EncoderConfig, vocab_size: int) -> None:
        super().__init__(config)
        self.word_embeddings = WordEmbedding(
            vocab_size,
            config.hidden_size,
            init_method=config.init_method,
            reduce_scatter_embeddings=config.sequence_parallel,
            config=config,
        )
        self.norm = WeightOnlyLayerNorm(config, config.hidden_size, config.layernorm_epsilon)

    def forward(self, tokens_T: Tensor, carried: TiedEmbeddingGrad | None = None) -> Tensor:
        """int64 [T] -> [T, 1, D]; see :class:`WordEmbedding`."""
        return self.norm(self.word_embeddings(tokens_T, carried))


class HeadTransform(MegatronModule):
    """The head before the decoder: dense, exact GELU, LayerNorm; the same on every tensor-parallel rank."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        shape = (config.hidden_size, config.hidden_size)
        self.dense = torch.nn.Linear(*shape, bias=False, dtype=config.params_dtype)
        self.norm = WeightOnlyLayerNorm(config, config.hidden_size, config.layernorm_epsilon)
        # Under sequence parallelism the scored rows are gathered before: every rank has the whole gradient.
        self.norm.weight.sequence_parallel = False  # type: ignore[attr-defined]

    def forward(self, x_KD: Tensor) -> Tensor:
        return self.norm(F.gelu(self.dense(x_KD)))

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple = (), metadata: dict | None = None
    ) -> dict[str, Any]:
        """Replicated over tensor-parallel ranks."""
        return make_sharded_tensors_for_checkpoint(self.state_dict(keep_vars=True), prefix, {}, sharded_offsets)


class Decoder(ColumnParallelLinear):
    """The decoder's bias, the copy of the tied table on a last stage that is not the first, and the loss.

    The loss wants table and bias chunk by chunk, so Megatron-Core's product is not used. That this is the module's
    ``forward`` matters: hooks that wait for gathered parameters run before it.
    """

    def forward(  # type: ignore[override]
        self, x_KD: Tensor, table_VD: Tensor, label_K: Tensor, carried: TiedEmbeddingGrad | None = None
    ) -> tuple[Tensor, Tensor]:
        group = process_groups.tensor_parallel() if self.config.tensor_model_parallel_size > 1 else None
        return chunked_cross_entropy(x_KD, table_VD, self.bias, label_K, group, carried)


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
            block_spec(config, vp_stage),
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
        """Called by Megatron-Core's pipeline schedules with what the stage before sent."""
        self.encoder.set_input_tensor(input_tensor[0] if isinstance(input_tensor, list) else input_tensor)

    def forward(
        self,
        tokens_T: Tensor,
        packed: PackedSequences,
        masked_index_K: Tensor | None = None,
        label_K: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [T, 1, D] (after the final norm on the last stage, else what the next stage takes in); or, on
        the last stage and with labels given, the summed MLM loss."""
        # Where lookup and decoder are on one stage, their gradients of the one table are one tensor.
        carried = TiedEmbeddingGrad() if self.pre_process and label_K is not None and self.post_process else None
        embedded = self.embedding(tokens_T, carried) if self.pre_process else None
        scored_K = masked_index_K if self.post_process and label_K is not None else None
        packed.scored_K = scored_K if self._ends_on_scored_rows else None
        hidden = self.encoder(embedded, attention_mask=None, packed_seq_params=packed)
        if scored_K is None or label_K is None:
            return hidden
        if packed.scored_K is None:
            hidden = self._whole(hidden)[scored_K]
        return self._loss(hidden, label_K, carried)[0]

    @property
    def _ends_on_scored_rows(self) -> bool:
        """Whether the last layer may leave out, behind its attention, the rows that the loss does not read.

        Not under sequence parallelism, where each rank has other rows and as many; not in FP8, whose products want
        numbers of rows that scored rows do not have.
        """
        layers = self.encoder.layers
        is_here = bool(len(layers)) and layers[-1].layer_number == self.config.num_layers
        return is_here and not self.config.sequence_parallel and not self.config.fp8

    def loss(
        self, hidden_T1D: Tensor, masked_index_K: Tensor, label_K: Tensor, carried: TiedEmbeddingGrad | None = None
    ) -> tuple[Tensor, Tensor]:
        """MLM loss on the scored rows: its differentiable sum and each row's, in nats (fp32)."""
        return self._loss(self._whole(hidden_T1D)[masked_index_K], label_K, carried)

    def _loss(self, hidden_K1D: Tensor, label_K: Tensor, carried: TiedEmbeddingGrad | None) -> tuple[Tensor, Tensor]:
        x_KD = self.head(hidden_K1D.squeeze(1))
        return self.output_layer(x_KD, self.shared_embedding_or_output_weight(), label_K, carried)

    def _whole(self, hidden_T1D: Tensor) -> Tensor:
        """The rows of all tokens where sequence parallelism has spread them; each rank then computes on all of them, so
        their gradient is whole on every rank and each takes its own part back."""
        if not self.config.sequence_parallel:
            return hidden_T1D
        return gather_from_sequence_parallel_region(hidden_T1D, tensor_parallel_output_grad=False)

    def logits(self, hidden_T1D: Tensor) -> Tensor:
        """Logits [T, V] of every position over the whole vocabulary; for evaluation and parity checks."""
        x_TD = self.head(self._whole(hidden_T1D).squeeze(1))
        local_TV = F.linear(x_TD, self.shared_embedding_or_output_weight(), self.output_layer.bias)
        return gather_from_tensor_model_parallel_region(local_TV)
