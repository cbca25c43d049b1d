"""The bound on how much longer a tokenizer's normalizer may make a text.

A few rules in a row, each of which replaces a character by a hundred, make gigabytes of a line. No tokenizer in use
comes near the bound: white space and quotation marks become a few characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_mmbert.utils.errors import UserError

MAX_EXPANSION = 32
"""Characters that one character of a text may become."""


def check_expansion(normalizer: Any, path: Path) -> None:
    """Try the replacements of a normalizer, as ``tokenizer.json`` at ``path`` describes it, on what they replace.

    Raises:
        UserError: they make a text more than ``MAX_EXPANSION`` times as long.
    """
    rules = list(_replacements(normalizer))
    texts = {pattern for pattern, content, is_regex in rules if not is_regex} | {
        character for _, content, _ in rules for character in content
    }
    for text in sorted(texts | {"a", " "}):
        length = len(text)
        grown = text
        for pattern, content, is_regex in rules:
            grown = _replaced(grown, pattern, content, is_regex, MAX_EXPANSION * max(length, 1))
            if len(grown) > MAX_EXPANSION * max(length, 1):
                raise UserError(
                    f"{path}: its normalizer makes more than {MAX_EXPANSION} characters of one ({text[:20]!r}), so a "
                    "line could become gigabytes; take the replacements out or use another tokenizer"
                )


def _replacements(normalizer: Any) -> Iterator[tuple[str, str, bool]]:
    """Yield (pattern, content, whether the pattern is a regular expression) of all replacements, in their order."""
    steps = [normalizer]
    while steps:
        step = steps.pop(0)
        if not isinstance(step, dict):
            continue
        if step.get("type") == "Sequence":
            steps = [*step["normalizers"], *steps]
        elif step.get("type") == "Replace":
            kind, pattern = next(iter(step["pattern"].items()))
            yield pattern, step["content"], kind == "Regex"


def _replaced(text: str, pattern: str, content: str, is_regex: bool, limit: int) -> str:
    """Return ``text`` with all of ``pattern`` replaced, cut where it is longer than ``limit``."""
    if not is_regex:
        count = text.count(pattern) if pattern else len(text) + 1
        if len(text) + count * (len(content) - len(pattern)) > limit:
            return " " * (limit + 1)
        return text.replace(pattern, content)
    try:
        return re.sub(pattern, lambda _: content, text)[: limit + 1]
    except re.error:  # what only the library's own engine knows: as if it replaced every character
        return (content * len(text))[: limit + 1] or text
