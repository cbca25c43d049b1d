"""Held-out bits per byte by language: how well the model predicts masked text, in a unit that languages share.

A fixed set of positions of each language's held-out text is replaced by ``<mask>``; the score is the summed
-log2 p(original) over the UTF-8 bytes those tokens stand for. Bytes, not tokens: a token of Thai and one of English
hold different amounts of text. The masks depend on text and settings alone, so scores of two checkpoints differ by
the model and nothing else. Lower is better; it is a score of this task, not a compression rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from megatron_mmbert.builders.data import stores_of, token_ids
from megatron_mmbert.config.base import IGNORED_LABEL
from megatron_mmbert.config.outputs import EvaluationConfig
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.data.loading.batch import Assembler, PackedBatch
from megatron_mmbert.data.loading.masking import Masker
from megatron_mmbert.data.loading.packing import pack_block
from megatron_mmbert.data.sampling.examples import ExampleTable
from megatron_mmbert.data.sampling.mixture import Block
from megatron_mmbert.data.sampling.settings import DataPhase, TokenizerIds
from megatron_mmbert.data.store.multi_store import ConcatenatedStores
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.evaluation import evaluation_mode, masked_losses
from megatron_mmbert.model.packed_sequences import PackedSequences
from megatron_mmbert.parallel.runtime import current
from megatron_mmbert.resilience import progress_marker
from megatron_mmbert.resilience.progress_marker import Stage
from megatron_mmbert.tokenizer.load import Tokenizer
from megatron_mmbert.utils.counter_rng import hash64, key64, string_key
from megatron_mmbert.utils.errors import UserError

_MASK_SEED = 2509_06888  # never the training seed: the masks are part of the measurement
_PACK_TOKENS = 8192


@dataclass(frozen=True)
class Score:
    """Sums over a language's scored tokens."""

    nats: float
    bytes: int
    tokens: int

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes


class HeldOut:
    """The held-out text of all languages, masked and packed once; scores any number of checkpoints.

    Args:
        max_length: length of a sample; the same for all checkpoints that are compared.
    """

    def __init__(
        self,
        stores: ConcatenatedStores,
        ids: TokenizerIds,
        piece_bytes: npt.NDArray[np.int32],
        settings: EvaluationConfig,
        max_length: int,
    ) -> None:
        self._names = sorted({(dataset.source, dataset.language) for dataset in stores.datasets})
        self._piece_bytes = piece_bytes
        self._batches = [
            batch
            for round_index in range(settings.rounds)
            for batch in _masked_packs(stores, self._names, ids, settings, max_length, round_index)
        ]

    @torch.no_grad()
    def score(self, model: Encoder | Sequence[Encoder]) -> dict[str, Score]:
        """Return the score of every language that has scored tokens; on every rank, of any layout.

        Args:
            model: the encoder, or this rank's chunks of it.

        Raises:
            UserError: a score is not finite.
        """
        chunks = [model] if isinstance(model, Encoder) else model
        languages = sorted({language for _, language in self._names})
        row = {language: index for index, language in enumerate(languages)}
        row_of_dataset = np.array([row[language] for _, language in self._names])
        sums = np.zeros((3, len(languages)))
        with evaluation_mode(chunks):
            for batch in self._batches:
                progress_marker.mark(Stage.HELD_OUT)
                self._add(chunks, batch, row_of_dataset, sums)
        for language, nats in zip(languages, sums[0], strict=True):
            if not math.isfinite(nats):
                raise UserError(
                    f"held-out text: the model's score of {language} is {nats}; weights or arithmetic are at fault, "
                    "take another checkpoint or precision.dtype fp32"
                )
        return {
            language: Score(float(nats), int(size), int(tokens))
            for language, nats, size, tokens in zip(languages, *sums, strict=True)
            if size
        }

    def _add(
        self, chunks: Sequence[Encoder], batch: PackedBatch, row_of_dataset: npt.NDArray, sums: npt.NDArray
    ) -> None:
        placed = batch.to(current().device)
        packed = PackedSequences.of(placed.cu_seqlens, placed.max_seqlen, placed.position_T)
        loss_K = masked_losses(chunks, placed.tokens_T, packed, placed.masked_index_K, placed.label_K)
        label_K, index_K = batch.label_K.numpy(), batch.masked_index_K.numpy()
        scored_K = label_K != IGNORED_LABEL
        sequence_K = np.searchsorted(batch.cu_seqlens.numpy(), index_K[scored_K], side="right") - 1
        rows = row_of_dataset[batch.dataset_S.numpy()[sequence_K]]
        values = (loss_K.double().cpu().numpy()[scored_K], self._piece_bytes[label_K[scored_K]], np.ones(len(rows)))
        for total, value in zip(sums, values, strict=True):
            np.add.at(total, rows, value)


def load_held_out(recipe: Recipe, tokenizer: Tokenizer) -> HeldOut:
    """Return the recipe's held-out text at the shortest length of any phase, so that all phases are measured alike.

    Raises:
        UserError: a store that cannot be read, or was made with another tokenizer.
    """
    stores = stores_of(recipe.evaluation.stores, tokenizer, recipe.data.check_share)
    max_length = min(phase.max_length for phase in recipe.phases)
    return HeldOut(stores, token_ids(tokenizer), tokenizer.piece_bytes, recipe.evaluation, max_length)


def _masked_packs(
    stores: ConcatenatedStores,
    names: Sequence[tuple[str, str]],
    ids: TokenizerIds,
    settings: EvaluationConfig,
    max_length: int,
    round_index: int,
) -> Iterator[PackedBatch]:
    """Yield the packs of one round of masks."""
    block = _first_examples(stores, names, settings.tokens_per_language, max_length, round_index)
    capacity = max(_PACK_TOKENS, max_length)
    phase = DataPhase(name="held-out", tokens=1, max_length=max_length, pack_tokens=capacity)
    masker = Masker(ids, "ours", key64(_MASK_SEED, round_index))
    assembler = Assembler(stores, list(names), ids, phase, masker)
    for pack in pack_block(block.lengths, capacity, _MASK_SEED):
        scored = max(1, round(settings.mask_ratio * int(block.lengths[pack].sum())))
        batch = assembler.assemble(block, pack, 0, scored)
        tokens_T = batch.tokens_T.clone()
        tokens_T[batch.masked_index_K[batch.label_K != IGNORED_LABEL]] = (
            ids.mask
        )  # all masked: the task, without 80/10/10
        yield replace(batch, tokens_T=tokens_T)


def _first_examples(
    stores: ConcatenatedStores, names: Sequence[tuple[str, str]], max_tokens: int, max_length: int, round_index: int
) -> Block:
    """Return the first examples of each dataset, as many as hold at most ``max_tokens``, but one at least."""
    rows: list[tuple[npt.NDArray, ...]] = []
    for dataset, name in enumerate(names):
        table = ExampleTable(stores.document_lengths(*name), max_length)
        document, start, stop = table.locate(np.arange(min(table.examples, max_tokens), dtype=np.int64))
        count = min(len(document), max(1, int((np.cumsum(stop - start) <= max_tokens).sum())))
        key = hash64(key64(string_key("/".join(name)), round_index), np.arange(count, dtype=np.uint64))
        rows.append(
            (np.full(len(document[:count]), dataset, np.int32), document[:count], start[:count], stop[:count], key)
        )
    return Block(*(np.concatenate(column) for column in zip(*rows, strict=True)))
