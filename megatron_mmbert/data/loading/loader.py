"""The packs of a phase for one data-parallel rank, in an order that depends on (settings, seed) alone.

Packs are numbered 0, 1, 2, ... through the blocks of the mixture, and a step takes the next n of them. With dp_size
ranks, rank r takes packs r, r + dp_size, ... of the step; where they do not suffice for all ranks, the last ranks get
empty packs. So the packs of a step depend on its size in packs, not on how many ranks share them. Tensor- and
pipeline-parallel ranks use the dp_rank of their replica and see the same.

Every rank plans every block (which samples, which packs: numbers only) and reads the ids of its own packs only. That
is how each knows, without communication, how many real tokens the whole step has.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from megatron_mmbert.data.loading.batch import Assembler, Int64s, PackedBatch, join_packs
from megatron_mmbert.data.loading.masking import Masker, scored_positions
from megatron_mmbert.data.loading.packing import pack_block
from megatron_mmbert.data.loading.prefetch import ProcessMap, ThreadAhead
from megatron_mmbert.data.loading.step_split import StepPacks
from megatron_mmbert.data.sampling.mixture import Block, Mixture
from megatron_mmbert.data.sampling.settings import DataPhase, TokenizerIds, TokenSource
from megatron_mmbert.utils.counter_rng import key64, string_key
from megatron_mmbert.utils.errors import UserError

_PACK_ORDER, _MASKS = 1, 2
_MAX_BLOCKS_AFTER = 64  # a phase's last step may reach a few blocks beyond its nominal end
_PREFETCHED_PACKS = 8


@dataclass(frozen=True)
class LoaderState:
    """A position in the order of packs: ``pack`` of ``block`` comes next; ``packs`` and real ``tokens`` (all ranks
    together) came before. The fields are keys of the checkpoint's loader state."""

    block: int = 0
    pack: int = 0
    packs: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class BlockPlan:
    """A block and its packs: indices of samples in the block, and the real tokens of each pack."""

    block: Block
    packs: list[Int64s]
    real_tokens: list[int]


@dataclass(frozen=True)
class DatasetUse:
    """The samples and epochs that a run has taken from one dataset in this phase, in whole blocks."""

    source: str
    language: str
    samples: int
    epochs: float


@dataclass(frozen=True)
class NextPack:
    """A pack in its turn: the plan of its block, its number in it, and the loader's state before and after it."""

    plan: BlockPlan
    number: int
    before: LoaderState
    after: LoaderState


class PackLoader:
    """Packs of a phase, resumable anywhere.

    Attributes:
        mixture: the phase's mixture.
        names: (source, language) of each dataset index in ``PackedBatch.dataset_S``.
        state: the position reached, counting what ``next_packs`` has handed out.
    """

    def __init__(
        self,
        source: TokenSource,
        phase: DataPhase,
        ids: TokenizerIds,
        dp_rank: int = 0,
        dp_size: int = 1,
        state: Mapping[str, Any] | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        step_packs: Callable[[int], StepPacks] | None = None,
    ) -> None:
        """Plan the mixture, at the start of the phase or at ``state``.

        Args:
            state: a ``state_dict`` to resume from.
            num_workers: 0 does all work in ``next_packs``; n > 0 plans blocks ahead in n processes and assembles packs
                ahead in a thread.
            pin_memory: lay batches into page-locked memory (needs CUDA), from which copies to the device overlap with
                its work.
            step_packs: the packs of the step that begins after so many real tokens; by default one of each rank.

        Raises:
            UserError: as ``Mixture``; a store of another vocabulary; a state of other settings.
        """
        if not 0 <= dp_rank < dp_size:
            raise ValueError(f"dp_rank {dp_rank} of {dp_size}")
        if source.vocab_size > ids.vocab_size:
            raise UserError(
                f"the store was made with {source.vocab_size} ids, the tokenizer has {ids.vocab_size}; "
                "preprocess the data with this tokenizer"
            )
        self.mixture = Mixture(source, phase)
        self.names = self.mixture.names
        self.state = LoaderState()
        self._phase = phase
        masker = Masker(ids, phase.mask_policy, key64(phase.seed, string_key(phase.name), _MASKS), phase.mask_unit)
        self._assembler = Assembler(source, self.names, ids, phase, masker)
        self._dp_rank, self._dp_size, self._num_workers = dp_rank, dp_size, num_workers
        self._pin_memory = pin_memory
        self._step_packs = step_packs or (lambda tokens: StepPacks(dp_size, (1,)))
        self._steps: Iterator[tuple[list[PackedBatch], LoaderState]] | None = None
        self._to_close: list[ThreadAhead[Any] | ProcessMap[Any]] = []
        if state is not None:
            self.load_state_dict(state)

    def next_step(self) -> list[PackedBatch]:
        """Return this rank's micro batches of the next step.

        Steps never end: the trainer stops at the phase's tokens (``state.tokens``). After them, datasets at
        ``max_epochs`` give nothing more, the others continue.
        """
        return self.next_packs(1)

    def next_packs(self, count: int) -> list[PackedBatch]:
        """Return this rank's micro batches of the next ``count`` steps; by default a step is one pack of each rank."""
        if self._steps is None:
            self._steps = self._start()
        batches = []
        for step, after in itertools.islice(self._steps, count):
            batches += step
            self.state = after
        return batches

    def state_dict(self) -> dict[str, Any]:
        """Return a few integers and a fingerprint of the order, for JSON: the same on all ranks after equal calls."""
        return {**asdict(self.state), "fingerprint": self.mixture.fingerprint()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from ``state``: nothing is repeated, nothing dropped, masks included; dp_size may have changed.

        Raises:
            UserError: the settings or the data fix another order of packs than those the state was saved with.
        """
        if state.get("fingerprint") != self.mixture.fingerprint():
            raise UserError(
                f"phase {self._phase.name!r}: the data, its weights, lengths or seed are not those of the checkpoint, "
                "so its position in the data has no meaning; restore them, or start the phase anew"
            )
        self.close()
        self.state = self._checked(state)

    def _checked(self, state: Mapping[str, Any]) -> LoaderState:
        """Return ``state`` as the loader keeps it.

        Raises:
            UserError: it is no state that this phase can have come to.
        """
        phase = self._phase
        try:
            found = LoaderState(*(int(state[name]) for name in ("block", "pack", "packs", "tokens")))
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"phase {phase.name!r}: damaged loader state {dict(state)}; take another checkpoint"
            ) from None
        blocks = -(-phase.tokens // phase.tokens_per_block) + _MAX_BLOCKS_AFTER
        packs = 2 * -(-phase.tokens_per_block // phase.pack_tokens) + _MAX_BLOCKS_AFTER
        possible = 0 <= found.block <= blocks and 0 <= found.pack <= packs and 0 <= found.packs <= blocks * packs
        if not possible or not 0 <= found.tokens <= blocks * packs * phase.pack_tokens:
            raise UserError(f"phase {phase.name!r}: loader state {dict(state)} cannot be; take another checkpoint")
        return found

    def consumed(self) -> list[DatasetUse]:
        """Return the samples and epochs of every dataset in whole blocks (the block in progress is not counted)."""
        samples = self.mixture.samples_before(self.state.block)
        rows = zip(self.names, samples.tolist(), self.mixture.position.epochs_in(samples).tolist(), strict=True)
        return [DatasetUse(*name, count, epochs) for name, count, epochs in rows]

    def epochs(self) -> dict[tuple[str, str], float]:
        """Return the passes over each dataset's text in this phase, in whole blocks."""
        return {(use.source, use.language): use.epochs for use in self.consumed()}

    def close(self) -> None:
        """Stop working ahead; ``next_packs`` starts it again, at ``state``."""
        while self._to_close:
            self._to_close.pop().close()
        self._steps = None

    def plan(self, index: int) -> BlockPlan:
        """Return block ``index`` and its packs; none where blocks are so small that no dataset's turn falls into it."""
        block = self.mixture.block(index)
        lengths = block.lengths
        packs = pack_block(lengths, self._phase.pack_tokens, key64(self._phase.seed, index, _PACK_ORDER))
        return BlockPlan(block, packs, [int(lengths[pack].sum()) for pack in packs])

    def _start(self) -> Iterator[tuple[list[PackedBatch], LoaderState]]:
        if not self._num_workers:
            return self._split_into_steps(map(self.plan, itertools.count(self.state.block)))
        # Processes first: forking after the thread runs would copy whatever locks it holds.
        plans = self._plan_ahead()
        depth = max(2, _PREFETCHED_PACKS // self._step_packs(self.state.tokens).per_rank)
        ahead = ThreadAhead(self._split_into_steps(plans), depth)
        self._to_close = [plans, ahead]
        return ahead

    def _plan_ahead(self) -> ProcessMap[BlockPlan]:
        return ProcessMap(self.plan, self.state.block, self._num_workers)

    def _split_into_steps(self, plans: Iterator[BlockPlan]) -> Iterator[tuple[list[PackedBatch], LoaderState]]:
        """Yield (this rank's micro batches of a step, state after it); ``plans`` begins at the block of ``state``."""
        state = self.state
        packs = self._in_order(state, plans)
        while True:
            step = self._step_packs(state.tokens)
            mine = []
            for place, each in enumerate(itertools.islice(packs, step.total)):
                if place % self._dp_size == self._dp_rank:
                    mine.append(self._assemble(each))
                state = each.after
            mine += [self._assembler.empty(self._scored(state))] * (step.per_rank - len(mine))
            sized = iter(mine)
            yield [self._join(itertools.islice(sized, size)) for size in step.micro_batches], state

    def _in_order(self, state: LoaderState, plans: Iterator[BlockPlan]) -> Iterator[NextPack]:
        """Yield the packs from ``state`` on; ``plans`` begins at its block."""
        for plan in plans:
            if not plan.packs:
                state = replace(state, block=state.block + 1)
            for pack in range(state.pack, len(plan.packs)):
                before, ends_block = state, pack + 1 == len(plan.packs)
                state = LoaderState(
                    block=state.block + ends_block,
                    pack=0 if ends_block else pack + 1,
                    packs=state.packs + 1,
                    tokens=state.tokens + plan.real_tokens[pack],
                )
                yield NextPack(plan, pack, before, state)

    def _assemble(self, each: NextPack) -> PackedBatch:
        samples = each.plan.packs[each.number]
        return self._assembler.assemble(each.plan.block, samples, each.before.packs, self._scored(each.before))

    def _scored(self, state: LoaderState) -> int:
        """Return K of a pack that begins at ``state``."""
        ratio = self._phase.mask_ratio.at(state.tokens / self._phase.tokens)
        return scored_positions(ratio, self._phase.pack_tokens)

    def _join(self, packs: Iterator[PackedBatch]) -> PackedBatch:
        batch = join_packs(list(packs))
        return batch.pin_memory() if self._pin_memory else batch
