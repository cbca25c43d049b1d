"""One value of a recipe by its dotted key."""

from __future__ import annotations

from typing import Any

from megatron_mmbert.utils.errors import UserError, nearest


def lookup(values: Any, path: str) -> Any:
    """Return the value at ``key.key.key``; of a list, items are found by their ``name`` or index.

    Raises:
        UserError: no such key.
    """
    for key in path.split("."):
        if isinstance(values, list):
            values = {
                str(item.get("name", at)) if isinstance(item, dict) else str(at): item for at, item in enumerate(values)
            }
        if not isinstance(values, dict) or key not in values:
            known = [str(name) for name in values] if isinstance(values, dict) else []
            raise UserError(f"{path}: the recipe has no key {key!r} there{nearest(key, known)}")
        values = values[key]
    return values
