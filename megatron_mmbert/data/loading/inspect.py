"""The packs at a point of a phase, taken apart into samples: what the model is given, and where it comes from.

A point is a count of real tokens. Which block holds it follows from the mixture (a block has ``block_tokens`` tokens
on average), but how many tokens lie before that block exactly is known only by adding up the lengths of all blocks
before it. Up to :data:`COUNTED_BLOCKS` of them are added up, which takes about a second; further on the count is the
mixture's expectation, and the point is said to be approximate. The packs themselves are always those of the training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from megatron_mmbert.data.loading.batch import PackedBatch
from megatron_mmbert.data.loading.loader import BlockPlan, LoaderState, PackLoader
from megatron_mmbert.data.loading.masking import Int64s
from megatron_mmbert.data.sampling.mixture import Mixture

COUNTED_BLOCKS = 32
NOT_SCORED = -1


@dataclass(frozen=True)
class SampleView:
    """One sample of a pack.

    Attributes:
        document: index of the document in its dataset.
        start, stop: the ids of the document that the sample holds.
        offset: position in the pack of the first token, which is ``<bos>``.
        seen: int64 [n], the ids that the model sees.
        label: int64 [n], the original ids of scored positions, :data:`NOT_SCORED` elsewhere.
    """

    source: str
    language: str
    document: int
    start: int
    stop: int
    offset: int
    seen: Int64s
    label: Int64s

    @property
    def original(self) -> Int64s:
        """int64 [n], the ids before masking."""
        return np.where(self.label == NOT_SCORED, self.seen, self.label)


@dataclass(frozen=True)
class PackView:
    """One pack and its position in the phase.

    Attributes:
        block, pack: the block's index in the phase and the pack's in the block, which has ``packs_in_block``.
        first_token: real tokens of the phase before this pack; ``exact`` or as expected.
        pack_tokens: T, ``real_tokens`` of which are no padding.
        scored: positions that count in the loss.
        temperature: tau in force.
    """

    block: int
    pack: int
    packs_in_block: int
    first_token: int
    exact: bool
    pack_tokens: int
    real_tokens: int
    scored: int
    temperature: float
    samples: tuple[SampleView, ...]

    def sample_at(self, token: int) -> tuple[int, int] | None:
        """Return (sample, token in it) of the phase's token ``token``, both from 0; None where another pack has it."""
        for index, sample in enumerate(self.samples):
            within = token - self.first_token - sample.offset
            if 0 <= within < len(sample.seen):
                return index, within
        return None


def packs_at(loader: PackLoader, token: int, counted_blocks: int = COUNTED_BLOCKS) -> Iterator[PackView]:
    """Yield the pack that holds token ``token`` (from 0) of the phase, and those after it without end.

    Args:
        loader: of one rank, without workers; it is moved to the point.
        counted_blocks: count exactly where at most so many blocks lie before the token.
    """
    block, before, exact = find_block(loader.mixture, token, counted_blocks)
    while True:
        plan = loader.plan(block)
        for pack, real_tokens in enumerate(plan.real_tokens):
            if before + real_tokens > token:
                yield _view(loader, plan, LoaderState(block=block, pack=pack, tokens=before), exact)
            before += real_tokens
        block += 1


def find_block(mixture: Mixture, token: int, counted_blocks: int = COUNTED_BLOCKS) -> tuple[int, int, bool]:
    """Return (block that holds ``token``, real tokens of the phase before it, whether that count is exact)."""
    block = token // mixture.block_tokens
    exact = block <= counted_blocks
    if exact:
        block, before = 0, 0
    else:
        before = expected_tokens_before(mixture, block)
        while before > token:
            block -= 1
            before = expected_tokens_before(mixture, block)
    while token >= before + (length := int(mixture.block(block).lengths.sum())):
        block, before = block + 1, before + length
    return block, before, exact


def expected_tokens_before(mixture: Mixture, block: int) -> int:
    """Return the real tokens before ``block``: samples of each dataset, which are exact, times its mean length."""
    return round(float(mixture.position.tokens_in(mixture.samples_before(block)).sum()))


def _view(loader: PackLoader, plan: BlockPlan, state: LoaderState, exact: bool) -> PackView:
    """Return the pack as the loader itself hands it out at ``state``."""
    loader.load_state_dict({**vars(state), "fingerprint": loader.mixture.fingerprint()})
    (batch,) = loader.next_packs(1)
    return PackView(
        block=state.block,
        pack=state.pack,
        packs_in_block=len(plan.packs),
        first_token=state.tokens,
        exact=exact,
        pack_tokens=len(batch.tokens_T),
        real_tokens=batch.real_tokens,
        scored=int((batch.label_K >= 0).sum()),
        temperature=loader.mixture.temperature_at(state.tokens),
        samples=tuple(_samples(loader.names, plan, plan.packs[state.pack], batch)),
    )


def _samples(names: list[tuple[str, str]], plan: BlockPlan, pack: Int64s, batch: PackedBatch) -> Iterator[SampleView]:
    seen = batch.tokens_T.numpy()
    label = np.full(len(seen), NOT_SCORED, dtype=np.int64)
    is_scored = batch.label_K.numpy() >= 0  # what fills up K has position 0 and no label
    label[batch.masked_index_K.numpy()[is_scored]] = batch.label_K.numpy()[is_scored]
    block, edges = plan.block, batch.cu_seqlens.tolist()
    for sequence, sample in enumerate(pack.tolist()):
        first, last = edges[sequence], edges[sequence + 1]
        source, language = names[int(block.dataset[sample])]
        span = (int(block.document[sample]), int(block.start[sample]), int(block.stop[sample]))
        yield SampleView(source, language, *span, first, seen[first:last], label[first:last])
