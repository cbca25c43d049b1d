"""Names that come from outside, from a line of a corpus or a manifest, and may end in messages, tables and paths."""

from __future__ import annotations

MAX_BYTES = 200
"""Bytes of a name; a file's name, endings included, may have 255."""


def is_name(name: object) -> bool:
    """Tell if ``name`` can name a language or a source: a few printable characters without spaces, and no path."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and name.isprintable()
        and not any(character.isspace() or character in "/\\" for character in name)
        and len(name.encode()) <= MAX_BYTES
    )
