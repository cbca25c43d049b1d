"""Packed, masked batches: a pack assembled from samples, and a micro batch of several packs laid end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from megatron_mmbert.config.base import IGNORED_LABEL
from megatron_mmbert.data.loading.masking import Masker
from megatron_mmbert.data.sampling.mixture import Block
from megatron_mmbert.data.sampling.settings import DataPhase, TokenizerIds, TokenSource
from megatron_mmbert.utils.errors import UserError

Int64s = npt.NDArray[np.int64]

EMPTY_PACK = 2**63 - 1


@dataclass(frozen=True)
class PackedBatch:
    """S sequences laid end to end in T tokens, K of them scored: one pack, or several joined by :func:`join_packs`.

    The T of a pack is fixed by the phase, and K too where its mask ratio is a constant (a ratio on a schedule changes K
    from pack to pack); S varies. Padding, if any, fills the end as sequences of its own of at most ``max_length``
    tokens each, so no sequence is longer than a sample may be and attention over padding costs no more than over text.

    Attributes:
        tokens_T: int64 [T], ids after masking.
        position_T: int64 [T], position in the sequence.
        cu_seqlens: int32 [S + 1], sequence s is cu_seqlens[s] : cu_seqlens[s + 1]; the last entry is T.
        max_seqlen: tokens of the longest sequence, at most the phase's ``max_length``.
        masked_index_K: int64 [K], scored positions, ascending; 0 where fewer than K positions were eligible.
        label_K: int64 [K], original ids; ``IGNORED_LABEL`` where fewer than K positions were eligible.
        dataset_S: int32 [S], index in ``PackLoader.names`` of each sequence's dataset; -1 for padding.
        real_tokens: tokens that are no padding.
        pack_indices: the index of each pack in the phase's global order of packs; :data:`EMPTY_PACK` for one that holds
            padding alone.
    """

    tokens_T: torch.Tensor
    position_T: torch.Tensor
    cu_seqlens: torch.Tensor
    max_seqlen: int
    masked_index_K: torch.Tensor
    label_K: torch.Tensor
    dataset_S: torch.Tensor
    real_tokens: int
    pack_indices: tuple[int, ...]

    def pin_memory(self) -> PackedBatch:
        """Return a copy in page-locked memory (needs CUDA), from which ``to`` does not block."""
        pinned: dict[str, Any] = {name: tensor.pin_memory() for name, tensor in self._tensors().items()}
        return replace(self, **pinned)

    def to(self, device: torch.device | str) -> PackedBatch:
        """Return a copy on ``device``."""
        moved: dict[str, Any] = {name: tensor.to(device, non_blocking=True) for name, tensor in self._tensors().items()}
        return replace(self, **moved)

    def _tensors(self) -> dict[str, torch.Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


class Assembler:
    """The maker of batches: fetches the ids of a pack's samples, lays them end to end and masks them."""

    def __init__(
        self, source: TokenSource, names: list[tuple[str, str]], ids: TokenizerIds, phase: DataPhase, masker: Masker
    ) -> None:
        self._source = source
        self._readers = [source.reader(*name) for name in names]
        self._names = names
        self._ids = ids
        self._phase = phase
        self._masker = masker

    def empty(self, scored: int) -> PackedBatch:
        """Return a pack of padding alone, of which nothing is scored; ``scored`` is its K."""
        total = self._phase.pack_tokens
        sequences = pad_sequences(total, self._phase.max_length)
        ends = np.cumsum(sequences)
        return PackedBatch(
            tokens_T=torch.full((total,), self._ids.pad),
            position_T=torch.from_numpy(np.arange(total) - np.repeat(ends - sequences, sequences)),
            cu_seqlens=torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)),
            max_seqlen=int(sequences.max()),
            masked_index_K=torch.zeros(scored, dtype=torch.int64),
            label_K=torch.full((scored,), IGNORED_LABEL),
            dataset_S=torch.full((len(sequences),), -1, dtype=torch.int32),
            real_tokens=0,
            pack_indices=(EMPTY_PACK,),
        )

    def assemble(self, block: Block, pack: Int64s, pack_index: int, scored: int) -> PackedBatch:
        """Return the batch of a pack.

        Args:
            pack: int64 [samples], indices in ``block``.
            pack_index: index in the phase's global order of packs.
            scored: K, scored positions.
        """
        total = self._phase.pack_tokens
        lengths = block.lengths[pack]
        real = int(lengths.sum())
        sequences = np.concatenate([lengths, pad_sequences(total - real, self._phase.max_length)])
        ends = np.cumsum(sequences)
        position = np.arange(total)
        position -= np.repeat(ends - sequences, sequences)
        key = np.zeros(total, dtype=np.uint64)
        key[:real] = np.repeat(self._masker.stream_keys(block.sample_key[pack]), lengths)
        masked = self._masker.mask(self._fetch(block, pack, ends), key, position, scored)
        dataset = np.full(len(sequences), -1, dtype=np.int32)
        dataset[: len(pack)] = block.dataset[pack]
        return PackedBatch(
            tokens_T=torch.from_numpy(masked.tokens_T),
            position_T=torch.from_numpy(position),
            cu_seqlens=torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)),
            max_seqlen=int(sequences.max()),
            masked_index_K=torch.from_numpy(masked.masked_index_K),
            label_K=torch.from_numpy(masked.label_K),
            dataset_S=torch.from_numpy(dataset),
            real_tokens=real,
            pack_indices=(pack_index,),
        )

    def _fetch(self, block: Block, pack: Int64s, ends: Int64s) -> Int64s:
        """Return int64 [T]: ``<bos>`` ids ``<eos>`` of every sample, then padding.

        Raises:
            UserError: a document is damaged, or has ids that the vocabulary has not.
        """
        tokens = np.full(self._phase.pack_tokens, self._ids.pad, dtype=np.int64)
        readers, between = self._readers, np.array([self._ids.eos, self._ids.bos])
        parts: list[npt.NDArray[Any]] = [between[1:]]
        columns = (block.dataset[pack], block.document[pack], block.start[pack], block.stop[pack])
        for dataset, document, start, stop in zip(*(column.tolist() for column in columns), strict=True):
            parts += (readers[dataset](document, start, stop), between)
        parts[-1] = between[:1]
        real = tokens[: int(ends[len(pack) - 1])]
        np.concatenate(parts, out=real)
        if int(real.view(np.uint64).max()) >= self._ids.vocab_size:  # a negative one is very large
            raise UserError(self._foreign_id(block, pack))
        return tokens

    def _foreign_id(self, block: Block, pack: Int64s) -> str:
        """Return the sentence about the first sample of a pack that has an id outside the vocabulary."""
        for sample in pack.tolist():
            dataset, document = int(block.dataset[sample]), int(block.document[sample])
            ids = self._readers[dataset](document, int(block.start[sample]), int(block.stop[sample]))
            foreign = ids[(ids < 0) | (ids >= self._ids.vocab_size)]
            if foreign.size:
                break
        return (
            f"{self._source.where(*self._names[dataset], document)} has the id {foreign[0]}, and the vocabulary has "
            f"{self._ids.vocab_size}; preprocess this text again with the tokenizer of the recipe"
        )


def join_packs(packs: Sequence[PackedBatch]) -> PackedBatch:
    """Return the packs laid end to end, as one batch; a single one is returned as it is."""
    if len(packs) == 1:
        return packs[0]
    offsets = np.cumsum([0, *(len(pack.tokens_T) for pack in packs)]).tolist()
    bounds = [pack.cu_seqlens[1:] + offset for pack, offset in zip(packs, offsets, strict=False)]
    masked = [pack.masked_index_K + offset for pack, offset in zip(packs, offsets, strict=False)]
    return PackedBatch(
        tokens_T=torch.cat([pack.tokens_T for pack in packs]),
        position_T=torch.cat([pack.position_T for pack in packs]),
        cu_seqlens=torch.cat([packs[0].cu_seqlens[:1], *bounds]),
        max_seqlen=max(pack.max_seqlen for pack in packs),
        masked_index_K=torch.cat(masked),
        label_K=torch.cat([pack.label_K for pack in packs]),
        dataset_S=torch.cat([pack.dataset_S for pack in packs]),
        real_tokens=sum(pack.real_tokens for pack in packs),
        pack_indices=tuple(index for pack in packs for index in pack.pack_indices),
    )


def pad_sequences(tokens: int, max_length: int) -> Int64s:
    """Return ``tokens`` of padding as lengths of at most ``max_length``, int64 [sequences]; none for no padding."""
    whole, remainder = divmod(tokens, max_length)
    return np.array([max_length] * whole + ([remainder] if remainder else []), dtype=np.int64)
