"""Names that come from outside, from a line of a corpus or a manifest, and may end in messages, tables and paths."""

from __future__ import annotations


def is_name(name: object) -> bool:
    """Tell if ``name`` can name a language or a source: printable characters without spaces, and no path."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and name.isprintable()
        and not any(character.isspace() or character in "/\\" for character in name)
    )
