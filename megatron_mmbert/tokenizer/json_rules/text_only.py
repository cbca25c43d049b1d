"""A ``tokenizer.json`` that knows no special token: models of the library find their pieces in a text too."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

_UNSPELLED = "\U0010fffe\U0010ffff"  # noncharacters of Unicode, which no text is to have


def text_only(description: dict[str, Any], special: Collection[int]) -> dict[str, Any]:
    """Return the rules in which a text that spells a special token gets ordinary pieces; all other ids are the same.

    Args:
        description: of any kind of model. BPE comes to a piece by a merge, which is left out.
        special: the ids that no text may give.
    """
    model = description["model"]
    if isinstance(model["vocab"], dict):
        vocab: Any = {_UNSPELLED + piece if i in special else piece: i for piece, i in model["vocab"].items()}
    else:
        vocab = [[_UNSPELLED + piece if i in special else piece, s] for i, (piece, s) in enumerate(model["vocab"])]
    if "merges" in model:
        pieces = {piece for piece, i in model["vocab"].items() if i in special}
        pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
        model = model | {"merges": [pair for pair in pairs if "".join(pair) not in pieces]}
    added = [token for token in description["added_tokens"] if token["id"] not in special]
    return description | {"model": model | {"vocab": vocab}, "added_tokens": added}
