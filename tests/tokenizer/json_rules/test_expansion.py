from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megatron_mmbert.tokenizer.json_rules.expansion import check_expansion
from megatron_mmbert.utils.errors import UserError


def replace(pattern: str, content: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


BOMBS: dict[str, Any] = {
    "four by a hundred": [replace("a", "a" * 100)] * 4,
    "other letters": [replace("x", "y" * 20), replace("y", "z" * 20)],
    "one": [replace("\n", "n" * 40)],
    "between characters": [replace("", "ab" * 40)],
    "expression": [replace("[a-z]", "q" * 50, "Regex")],
    "expression that Python does not know": [replace(r"\p{L}", "q" * 50, "Regex")],
    "nested": [{"type": "Sequence", "normalizers": [replace("a", "b" * 10), replace("b", "a" * 10)]}],
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_normalizers_that_multiply_text(bomb: str) -> None:
    with pytest.raises(UserError, match=r"^t.json: its normalizer makes more than 32 characters of one"):
        check_expansion({"type": "Sequence", "normalizers": BOMBS[bomb]}, Path("t.json"))


@pytest.mark.parametrize(
    "normalizer",
    [
        None,
        {"type": "NFC"},
        replace(" ", "▁"),
        {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")]},
        {
            "type": "Sequence",
            "normalizers": [replace("\t", "    "), replace("``", '"'), replace(" {2,}", " ", "Regex")],
        },
        {"type": "Sequence", "normalizers": [replace(mark, "1/2") for mark in "½⅓¼⅕⅙⅛"]},
    ],
)
def test_normalizers_in_use(normalizer: Any) -> None:
    check_expansion(normalizer, Path("t.json"))
