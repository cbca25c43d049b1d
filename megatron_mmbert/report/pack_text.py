"""Packs as text: where each sample comes from, and what the mask did to it.

Scored tokens stand in brackets as the vocabulary writes them (``▁`` is the space before a word), so that a mark is one
token exactly; all else is decoded text. A token that is one byte of a character stands as that byte in a mark, and
what is left of the character beside it cannot be decoded and shows as ``�``.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import TextIO

from megatron_mmbert.data.loading.inspect import NOT_SCORED, PackView, SampleView
from megatron_mmbert.tokenizer.load import Tokenizer

LEGEND = "[MASK→token] hidden; [other→token] replaced; [=token] kept, but to be predicted; all else is not scored"
_COLOURS = {"masked": "\033[1;33m", "replaced": "\033[1;31m", "kept": "\033[1;32m", "head": "\033[1;36m"}
_RESET = "\033[0m"


def wants_colour(stream: TextIO) -> bool:
    """Return whether ``stream`` is a terminal and the user has not switched colours off (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def fate(seen: int, label: int, mask_id: int) -> str:
    """Return what masking did to a token: ``masked``, ``replaced``, ``kept``, or nothing. A random id that is the
    original by chance cannot be told from one kept."""
    if label == NOT_SCORED:
        return ""
    return "masked" if seen == mask_id else "kept" if seen == label else "replaced"


def pack_lines(
    pack: PackView, tokenizer: Tokenizer, token: int, samples: int | None = None, colour: bool = False
) -> Iterator[str]:
    """Yield lines that show a pack and its first ``samples`` (None: all).

    Args:
        token: the token of the phase that was asked for; the pack's heading says where in it that is.
    """
    yield _coloured("head", _pack_heading(pack, token, tokenizer.mask_id), colour)
    shown = pack.samples if samples is None else pack.samples[:samples]
    for number, sample in enumerate(shown, 1):
        yield _coloured("head", _sample_heading(pack, sample, number), colour)
        yield marked_text(sample, tokenizer, colour)
        yield ""
    if len(shown) < len(pack.samples):
        yield f"... and {len(pack.samples) - len(shown)} more in this pack"
        yield ""


def plain_text(sample: SampleView, tokenizer: Tokenizer) -> str:
    """Return the text of a sample before masking."""
    return harmless(tokenizer.decode(sample.original))


def marked_text(sample: SampleView, tokenizer: Tokenizer, colour: bool = False) -> str:
    """Return the text of a sample with a mark for every scored token."""
    parts = []
    tokens = zip(sample.seen.tolist(), sample.label.tolist(), strict=True)
    for is_scored, run in groupby(tokens, key=lambda token: token[1] != NOT_SCORED):
        if is_scored:
            parts += [_mark(seen, label, tokenizer, colour) for seen, label in run]
        else:
            parts.append(harmless(tokenizer.decode([seen for seen, _ in run])))
    return "".join(parts)


def harmless(text: str) -> str:
    """Return ``text`` with control characters made visible: a corpus must not steer the terminal that shows it."""
    return "".join(
        f"\\x{ord(character):02x}" if unicodedata.category(character) == "Cc" and character not in "\n\t" else character
        for character in text
    )


def _mark(seen: int, label: int, tokenizer: Tokenizer, colour: bool) -> str:
    kind = fate(seen, label, tokenizer.mask_id)
    original = tokenizer.piece(label)
    before = {"masked": "MASK→", "kept": "=", "replaced": f"{tokenizer.piece(seen)}→"}[kind]
    shown = f"[{before}{original}]".replace("\n", "⏎").replace("\t", "⇥")
    return _coloured(kind, harmless(shown), colour)


def _pack_heading(pack: PackView, token: int, mask_id: int) -> str:
    last = pack.first_token + pack.real_tokens - 1
    about = "" if pack.exact else "about "
    fates = Counter(
        fate(seen, label, mask_id)
        for sample in pack.samples
        for seen, label in zip(sample.seen.tolist(), sample.label.tolist(), strict=True)
    )
    found = pack.sample_at(token)
    place = f"; token {token:,} is {about}token {found[1] + 1} of sample {found[0] + 1}" if found else ""
    return (
        f"block {pack.block}, pack {pack.pack + 1} of {pack.packs_in_block}: {about}tokens {pack.first_token:,} to "
        f"{last:,} of the phase{place}\n"
        f"{len(pack.samples)} samples fill {pack.real_tokens / pack.pack_tokens:.1%} of {pack.pack_tokens:,} tokens; "
        f"{pack.scored:,} scored: {fates['masked']:,} masked, {fates['replaced']:,} replaced, {fates['kept']:,} kept; "
        f"temperature {pack.temperature:.3g}"
    )


def _sample_heading(pack: PackView, sample: SampleView, number: int) -> str:
    first = pack.first_token + sample.offset
    return (
        f"--- sample {number}: {sample.language}, source {sample.source}, document {sample.document:,}, "
        f"ids {sample.start:,} to {sample.stop - 1:,}; {len(sample.seen):,} tokens from {first:,} of the phase, "
        f"{int((sample.label != NOT_SCORED).sum()):,} scored"
    )


def _coloured(kind: str, text: str, colour: bool) -> str:
    return f"{_COLOURS[kind]}{text}{_RESET}" if colour else text
