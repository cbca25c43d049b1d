"""The text that a vocabulary piece stands for, in each kind of ``tokenizer.json``, written as SentencePiece writes it.

There U+2581 is a space, which begins a word, and ``<0xE4>`` a byte that is no character by itself. Whole-word masking
reads word edges from this spelling, bits per byte the size of the text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from megatron_mmbert.tokenizer.whitespace import SPACE

Spell = Callable[[str], str]


def spelling_of(description: dict[str, Any]) -> Spell:
    """Return the function from a learned piece of a ``tokenizer.json`` to SentencePiece's spelling."""
    model = description["model"]
    if is_byte_level(description):
        return _from_byte_level
    if model["type"] == "WordPiece":
        return partial(_from_word_piece, model.get("continuing_subword_prefix") or "##")
    return str


def is_byte_level(description: dict[str, Any]) -> bool:
    """Tell if every character of a learned piece stands for one byte."""
    return any("ByteLevel" in _types(description.get(part)) for part in ("pre_tokenizer", "decoder"))


def literal(token: str) -> str:
    """Return the spelling of a token that was added as text."""
    return token.replace(" ", SPACE)


def _types(part: Any) -> set[str]:
    if isinstance(part, dict):
        return {str(part.get("type"))}.union(*map(_types, part.values()))
    return set().union(*map(_types, part)) if isinstance(part, list) else set()


@cache
def _byte_of_character() -> dict[str, int]:
    """Return GPT-2's table: printable bytes are their own characters, the others are put after U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


def _from_byte_level(piece: str) -> str:
    table = _byte_of_character()
    if not all(character in table for character in piece):
        return piece
    content = bytes(table[character] for character in piece)
    text = content.decode("utf-8", "ignore")
    if not text and content:  # a part of a character
        return f"<0x{content[0]:02X}>"
    return literal(text)


def _from_word_piece(prefix: str, piece: str) -> str:
    if piece.startswith(prefix) and piece != prefix:
        return piece.removeprefix(prefix)
    # Punctuation and Han characters are words of their own by BERT's rules, mostly without a space before them.
    first = piece[:1]
    joined = unicodedata.category(first)[0] in "PS" or unicodedata.name(first, "").startswith("CJK") if first else True
    return piece if joined else SPACE + piece
