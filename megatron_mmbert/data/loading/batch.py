"""One packed, masked micro batch, and how it is assembled from samples."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from megatron_mmbert.data.loading.masking import Masker
from megatron_mmbert.data.sampling.mixture import Block
from megatron_mmbert.data.sampling.settings import DataPhase, TokenizerIds, TokenSource

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PackedBatch:
    """S segments laid end to end in T tokens, K of them scored.

    T is fixed by the phase, and K too where its mask ratio is a constant (a ratio on a schedule changes K from pack to
    pack); S varies. Padding, if any, fills the end as segments of its own of at most ``max_length`` tokens each, so no
    segment is longer than a sample may be and attention over padding costs no more than over text.

    Attributes:
        tokens_T: int64 [T], ids after masking.
        position_T: int64 [T], position in the segment.
        cu_seqlens: int32 [S + 1], segment s is cu_seqlens[s] : cu_seqlens[s + 1]; the last entry is T.
        max_seqlen: longest segment, at most the phase's ``max_length``.
        masked_index_K: int64 [K], scored positions, ascending; 0 where fewer than K positions were eligible.
        label_K: int64 [K], original ids; -100 there.
        group_S: int32 [S], position in ``PackLoader.names`` of each segment; -1 for padding.
        real_tokens: tokens that are no padding.
        pack_number: place in the phase's global order of packs.
    """

    tokens_T: torch.Tensor
    position_T: torch.Tensor
    cu_seqlens: torch.Tensor
    max_seqlen: int
    masked_index_K: torch.Tensor
    label_K: torch.Tensor
    group_S: torch.Tensor
    real_tokens: int
    pack_number: int

    def pin_memory(self) -> PackedBatch:
        """A copy in page-locked memory (needs CUDA), from which ``to`` does not block."""
        pinned: dict[str, Any] = {name: tensor.pin_memory() for name, tensor in self._tensors().items()}
        return replace(self, **pinned)

    def to(self, device: torch.device | str) -> PackedBatch:
        """A copy on ``device``."""
        moved: dict[str, Any] = {name: tensor.to(device, non_blocking=True) for name, tensor in self._tensors().items()}
        return replace(self, **moved)

    def _tensors(self) -> dict[str, torch.Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


class Assembler:
    """Fetches the ids of a pack's samples and makes the batch."""

    def __init__(
        self, source: TokenSource, names: list[tuple[str, str]], ids: TokenizerIds, phase: DataPhase, masker: Masker
    ) -> None:
        self._source = source
        self._names = names
        self._ids = ids
        self._phase = phase
        self._masker = masker

    def assemble(self, block: Block, pack: Int64s, pack_number: int, scored: int) -> PackedBatch:
        """The batch of the samples ``pack`` (int64, positions in ``block``) with ``scored`` (K) scored positions."""
        total = self._phase.pack_tokens
        lengths = block.lengths[pack]
        real = int(lengths.sum())
        segments = np.concatenate([lengths, pad_segments(total - real, self._phase.max_length)])
        ends = np.cumsum(segments)
        position = np.arange(total) - np.repeat(ends - segments, segments)
        key = np.zeros(total, dtype=np.uint64)
        key[:real] = np.repeat(self._masker.stream_keys(block.sample_key[pack]), lengths)
        masked = self._masker.mask(self._fetch(block, pack, ends), key, position, scored)
        group = np.full(len(segments), -1, dtype=np.int32)
        group[: len(pack)] = block.group[pack]
        return PackedBatch(
            tokens_T=torch.from_numpy(masked.tokens_T),
            position_T=torch.from_numpy(position),
            cu_seqlens=torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)),
            max_seqlen=int(segments.max()),
            masked_index_K=torch.from_numpy(masked.masked_index_K),
            label_K=torch.from_numpy(masked.label_K),
            group_S=torch.from_numpy(group),
            real_tokens=real,
            pack_number=pack_number,
        )

    def _fetch(self, block: Block, pack: Int64s, ends: Int64s) -> Int64s:
        """int64 [T]: ``<bos>`` ids ``<eos>`` of every sample, then padding."""
        tokens = np.full(self._phase.pack_tokens, self._ids.pad, dtype=np.int64)
        columns = (block.group[pack], block.document[pack], block.start[pack], block.stop[pack], ends[: len(pack)])
        for group, document, start, stop, end in zip(*(column.tolist() for column in columns), strict=True):
            source, language = self._names[group]
            tokens[end - 2 - (stop - start)] = self._ids.bos
            tokens[end - 1 - (stop - start) : end - 1] = self._source.tokens(source, language, document, start, stop)
            tokens[end - 1] = self._ids.eos
        return tokens


def pad_segments(tokens: int, longest: int) -> Int64s:
    """``tokens`` of padding as segments of at most ``longest``, int64 [segments]; none for no padding."""
    whole, rest = divmod(tokens, longest)
    return np.array([longest] * whole + ([rest] if rest else []), dtype=np.int64)
