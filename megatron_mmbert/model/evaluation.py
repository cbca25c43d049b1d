"""The evaluation pass: losses at masked positions without gradients, through one pipeline stage after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.packed_sequences import PackedSequences
from megatron_mmbert.parallel.runtime import from_last_stage, from_stage_before, to_next_stage


@contextmanager
def evaluation_mode(chunks: Sequence[Encoder]) -> Iterator[None]:
    """Switch dropout off within the block, and back to what it was after it."""
    was_training = chunks[0].training
    for chunk in chunks:
        chunk.eval()
    try:
        yield
    finally:
        for chunk in chunks:
            chunk.train(was_training)


@torch.no_grad()
def masked_losses(
    chunks: Sequence[Encoder], tokens_T: Tensor, packed: PackedSequences, masked_index_K: Tensor, label_K: Tensor
) -> Tensor:
    """Return the loss at each masked position in nats, fp32 [K], on every rank.

    Megatron-Core's schedules want packs of one length and a number of them that suits the stages; text to be scored
    has neither, and is short.

    Args:
        chunks: this rank's part of the model, several under interleaving; the same pack comes to every rank.
    """
    loss_K = torch.zeros(len(label_K), dtype=torch.float32, device=tokens_T.device)
    for chunk in chunks:
        config = chunk.config
        if not chunk.pre_process:
            rows = len(tokens_T) // (config.tensor_model_parallel_size if config.sequence_parallel else 1)
            shape = (rows, 1, config.hidden_size)
            chunk.set_input_tensor(from_stage_before(torch.empty(shape, dtype=config.params_dtype).to(tokens_T.device)))
        hidden = chunk(tokens_T, packed)
        if chunk.post_process:
            loss_K = chunk.loss(hidden, masked_index_K, label_K)[1]
        else:
            to_next_stage(hidden)
    return from_last_stage(loss_K)
