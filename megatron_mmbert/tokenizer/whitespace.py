"""White space that survives: runs of it as single pieces, and a character that SentencePiece would take for a space.

*Runs.* Indented text is full of runs of newlines, spaces and tabs. Gemma 2 gives each length up to 31 a piece; here
the lengths 2, 4, 8 and 16 have one, joined before anything else is, so that a run is spelled in at most one piece of
each length. They are ordinary pieces with ordinary merges, which any BPE implementation gets right.

*U+2581.* SentencePiece writes a space as ``▁`` and reads a ``▁`` in the text as a space; documents about tokenizers
have it. The model's normaliser exchanges it for U+FDD0, a code that Unicode keeps out of text, and its denormaliser
puts it back. A text that has U+FDD0 itself, against the standard, is decoded with ``▁`` there.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import sentencepiece

from megatron_mmbert.tokenizer.sentencepiece_proto import Kind, NormalizerSpec, parse_model

SPACE = "▁"
"""SentencePiece's way to write a space."""

ESCAPE = "\ufdd0"
"""The character that a ``▁`` of the text becomes."""

RULE_NAME = "identity_with_U+2581_escaped"
"""The normaliser's name in a model trained here, by which the exporter knows what it does."""

_RUN_LENGTHS = (2, 4, 8, 16)


def whitespace_pieces() -> dict[str, float]:
    """Return piece to score: newline, tab, and runs of newlines, spaces and tabs, a run's halves joined before the run.

    A single space is missing on purpose: it stays free to merge with the word after it. Learned pieces have scores of
    0 and below.
    """
    singles = {"\n": 0.0, "\t": 0.0}
    runs = {c * n: float(len(_RUN_LENGTHS) - i) for c in ("\n", SPACE, "\t") for i, n in enumerate(_RUN_LENGTHS)}
    return singles | runs


def keep_whitespace(content: bytes) -> bytes:
    """Return the model trained with :func:`whitespace_pieces` as user-defined symbols, finished as the module says.

    While training, a user-defined symbol is a boundary that no piece crosses; afterwards it is a piece like any other.
    """
    proto = parse_model(content)
    scores = whitespace_pieces()
    for piece in proto.pieces:
        if piece.type == Kind.USER_DEFINED:
            piece.type, piece.score = Kind.NORMAL, scores[piece.piece]
    del proto.trainer_spec.user_defined_symbols[:]
    proto.normalizer_spec.name = RULE_NAME
    proto.normalizer_spec.precompiled_charsmap = _exchange(SPACE, ESCAPE)
    back = proto.denormalizer_spec
    back.precompiled_charsmap = _exchange(ESCAPE, SPACE)
    back.add_dummy_prefix = back.remove_extra_whitespaces = back.escape_whitespaces = False
    return bytes(proto.SerializeToString(deterministic=True))


def _exchange(old: str, new: str) -> bytes:
    """Return SentencePiece's compiled form of the rule that turns the character ``old`` into ``new``."""
    sentencepiece.set_min_log_level(2)
    with tempfile.TemporaryDirectory() as folder:
        rule = Path(folder) / "rule.tsv"
        rule.write_text(f"{ord(old):04X}\t{ord(new):04X}\n", encoding="ascii")
        normalizer: Any = sentencepiece.SentencePieceNormalizer(rule_tsv=str(rule))
    return bytes(NormalizerSpec.FromString(normalizer.serialized_normalizer_spec()).precompiled_charsmap)
