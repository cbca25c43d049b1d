"""The two ends of the encoder, which share the word embedding: lookup and norm before the layers, MLM head after them.

Shape letters: T packed tokens, D model width, K masked positions, V vocabulary (this rank's slice of it).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import ColumnParallelLinear, VocabParallelEmbedding
from megatron.core.tensor_parallel.mappings import (
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor

from megatron_mmbert.model.config import EncoderConfig
from megatron_mmbert.model.memory_saving.chunked_cross_entropy import chunked_cross_entropy
from megatron_mmbert.model.memory_saving.tied_embedding_grad import TiedEmbeddingGrad, look_up
from megatron_mmbert.model.norm import WeightOnlyLayerNorm
from megatron_mmbert.parallel import process_groups


class WordEmbedding(VocabParallelEmbedding):
    """Megatron-Core's word embedding, which can share its gradient with the decoder."""

    def forward(self, tokens_T: Tensor, tied_grad: TiedEmbeddingGrad | None = None) -> Tensor:  # type: ignore[override]
        """Look up int64 [T]; returns [T, 1, D], Megatron-Core's layout with a batch of one pack.

        Under sequence parallelism it is only this rank's share of the tokens.
        """
        local_T = tokens_T - self.vocab_start_index
        is_local_T = (local_T >= 0) & (local_T < self.num_embeddings_per_partition)
        row_T = torch.where(is_local_T, local_T, 0)
        rows_TD = F.embedding(row_T, self.weight) if tied_grad is None else look_up(self.weight, row_T, tied_grad)
        if self.tp_group.size() > 1:
            rows_TD = rows_TD * is_local_T[:, None]
        over_ranks = (
            reduce_scatter_to_sequence_parallel_region
            if self.reduce_scatter_embeddings
            else reduce_from_tensor_model_parallel_region
        )
        return over_ranks(rows_TD[:, None], group=self.tp_group)


class TokenEmbedding(MegatronModule):
    """The word embedding, then LayerNorm; no embedding of positions or types, no dropout."""

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

    def forward(self, tokens_T: Tensor, tied_grad: TiedEmbeddingGrad | None = None) -> Tensor:
        """Return norm(embedding[tokens]), [T, 1, D], of int64 [T]; see :class:`WordEmbedding`."""
        return self.norm(self.word_embeddings(tokens_T, tied_grad))


class HeadTransform(MegatronModule):
    """The head before the decoder: dense, exact GELU, LayerNorm; the same on every tensor-parallel rank."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        shape = (config.hidden_size, config.hidden_size)
        self.dense = torch.nn.Linear(*shape, bias=False, dtype=config.params_dtype)
        self.norm = WeightOnlyLayerNorm(config, config.hidden_size, config.layernorm_epsilon)
        # Under sequence parallelism the masked positions are gathered before: every rank has the whole gradient.
        self.norm.weight.sequence_parallel = False  # type: ignore[attr-defined]

    def forward(self, x_KD: Tensor) -> Tensor:
        return self.norm(F.gelu(self.dense(x_KD)))

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple = (), metadata: dict | None = None
    ) -> dict[str, Any]:
        """Return the weights as tensors that are replicated over tensor-parallel ranks."""
        return make_sharded_tensors_for_checkpoint(self.state_dict(keep_vars=True), prefix, {}, sharded_offsets)


class Decoder(ColumnParallelLinear):
    """The decoder's bias, the copy of the word embedding on a last stage that is not the first, and the loss.

    The loss wants embedding and bias chunk by chunk, so Megatron-Core's product is not used. That this is the module's
    ``forward`` matters: hooks that wait for gathered parameters run before it.
    """

    def forward(  # type: ignore[override]
        self, x_KD: Tensor, embedding_VD: Tensor, label_K: Tensor, tied_grad: TiedEmbeddingGrad | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the summed MLM loss and each position's; see :func:`chunked_cross_entropy`."""
        group = process_groups.tensor_parallel() if self.config.tensor_model_parallel_size > 1 else None
        return chunked_cross_entropy(x_KD, embedding_VD, self.bias, label_K, group, tied_grad)
