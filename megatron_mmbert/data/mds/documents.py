"""Token ids of samples to the documents of a store: cut at ``<bos>``, ``<eos>`` and ``<pad>``, which are taken out.

Bytes and words of a document are counted by its pieces: exactly those of its text, save that a space which the
tokenizer puts before every text is a byte more, and white space that is spelled in several bytes divides no words.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.mds.decode import Int64s, Report, SampleIds
from megatron_mmbert.data.store.tokenized_documents import ROW, TokenizedDocuments, checksums_of
from megatron_mmbert.tokenizer.load import Tokenizer

Documents = Literal["marked", "cut", "samples"]
"""What a document is: what lies between marks, of which each sample has one (``marked``); the same, a sample without
marks being one too (``cut``); a sample, which has marks only at its ends (``samples``)."""

_BYTE_BITS, _WORD_BITS = 16, 10


class Pieces(NamedTuple):
    """The ids of a vocabulary as far as documents are cut and counted by them.

    Attributes:
        marks: the ids that documents are cut at.
        named: the first two of them, for messages.
        counts: of each id its bytes, the words that begin within it, whether it begins with a letter and whether it
            ends with white space, packed into an int32 [vocab_size].
    """

    marks: tuple[int, ...]
    named: str
    counts: npt.NDArray[np.int32]


def pieces_of(tokenizer: Tokenizer) -> Pieces:
    """Return the pieces of a tokenizer."""
    marks = tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id
    bytes_v = np.minimum(tokenizer.piece_bytes, (1 << _BYTE_BITS) - 1)
    shapes = [_shape(_text(tokenizer.spelled(i))) for i in range(tokenizer.vocab_size)]
    counts = bytes_v | (np.array(shapes, np.int32) << _BYTE_BITS)
    counts[list(tokenizer.special_ids)] = 0
    return Pieces(marks, f"<bos> ({marks[0]}) and no <eos> ({marks[1]})", counts.astype(np.int32))


def _text(piece: str) -> str:
    """Return the text of a piece as SentencePiece spells it; a byte beyond ASCII is a letter."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        try:
            byte = int(piece[3:5], 16)
        except ValueError:
            return piece
        return chr(byte) if byte < 128 else "x"
    return piece.replace("\u2581", " ")


def _shape(text: str) -> int:
    if not text:
        return 0
    begins, ends = not text[0].isspace(), text[-1].isspace()
    inside = min(len(text.split()) - begins, (1 << _WORD_BITS) - 1)
    return inside | begins << _WORD_BITS | ends << (_WORD_BITS + 1)


def documents_of(
    samples: SampleIds, language: str, pieces: Pieces, kind: Documents, report: Report
) -> TokenizedDocuments | None:
    """Return the documents of some samples; None if there are none.

    ``report`` is told of samples that give no document, or not all: without text, or not of ``kind``.
    """
    marked = _any_of(samples.ids, pieces.marks)
    at = np.flatnonzero(marked)
    ends = np.cumsum(samples.lengths)
    # Each mark ends a piece and begins one, as the end of a sample does.
    starts = np.sort(np.concatenate([ends - samples.lengths, at + 1]))
    lengths = np.sort(np.concatenate([ends, at])) - starts
    starts, lengths = starts[lengths > 0], lengths[lengths > 0]
    owners = np.searchsorted(ends, starts, side="right")
    refused = _not_of_kind(samples, ends, at, owners, pieces, kind, report)
    ids = samples.ids[~marked]
    counts = _count(ids, lengths, pieces)
    textless = (counts.words == 0) & ~refused[owners]
    for owner in np.unique(owners[textless]).tolist():
        report(int(samples.places[owner]), "a document in it is without text")
    kept = ~textless & ~refused[owners]
    if not kept.any():
        return None
    ids, lengths = ids[np.repeat(kept, lengths)], lengths[kept]
    rows = np.zeros(lengths.size, ROW)
    rows["tokens"], rows["bytes"], rows["words"] = lengths, counts.bytes[kept], counts.words[kept]
    rows["crc32"] = checksums_of(ids, lengths)
    return TokenizedDocuments(language, ids, rows)


def _any_of(ids: npt.NDArray[Any], values: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    found = ids == values[0]
    for value in values[1:]:
        found |= ids == value
    return found


def _not_of_kind(
    samples: SampleIds, ends: Int64s, at: Int64s, owners: Int64s, pieces: Pieces, kind: Documents, report: Report
) -> npt.NDArray[np.bool_]:
    """Return which samples are refused as a whole, bool [samples]: those without any piece, and not of ``kind``."""
    documents = np.bincount(owners, minlength=ends.size)
    refused = documents == 0
    for place in samples.places[refused].tolist():
        report(place, "no id in it but <bos>, <eos> and <pad>")
    if kind == "marked":
        marks = np.bincount(np.searchsorted(ends, at, side="right"), minlength=ends.size)
        wrong = (marks == 0) & ~refused
        reason = f"no {pieces.named} in it: ids of another tokenizer? If it is a document, pass --documents cut"
    elif kind == "samples":
        wrong = documents > 1
        reason = "<bos>, <eos> or <pad> within it; pass --documents marked to cut it there"
    else:
        return refused
    for place in samples.places[wrong].tolist():
        report(place, reason)
    return refused | wrong


class _Counts(NamedTuple):
    """Bytes and words of documents, int64 [documents] each."""

    bytes: Int64s
    words: Int64s


def _count(ids: npt.NDArray[Any], lengths: Int64s, pieces: Pieces) -> _Counts:
    if not lengths.size:
        return _Counts(np.empty(0, np.int64), np.empty(0, np.int64))
    starts = np.cumsum(lengths) - lengths
    packed = pieces.counts[ids]
    total = np.add.reduceat(packed & ((1 << _BYTE_BITS) - 1), starts, dtype=np.int64)
    packed >>= _BYTE_BITS
    begins = (packed >> _WORD_BITS) & 1
    after_space = np.empty(ids.size, np.int32)
    after_space[1:] = packed[:-1] >> (_WORD_BITS + 1)
    after_space[starts] = 1
    begins &= after_space
    packed &= (1 << _WORD_BITS) - 1
    packed += begins
    return _Counts(total, np.add.reduceat(packed, starts, dtype=np.int64))
