"""The recipe's renamed keys. Each is read under its old name too: in a file, in ``key=value``, in an old checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from megatron_mmbert.utils.errors import UserError

RENAMED_KEYS = {
    "numbers": "stability",
    "numbers.deterministic": "precision.deterministic",
    "numbers.slow_rank": "resilience.straggler_ratio",
    "numbers.most_in_a_row": "stability.max_bad_steps",
    "parallel.lost_rank_seconds": "resilience.failed_rank_seconds",
    "parallel.hung_rank_seconds": "resilience.hang_seconds",
    "checkpoint.replay": "checkpoint.resume_check",
    "precision.fp8_linears": "precision.fp8_linear_layers",
}
"""Old path of a key or section: its path of today. The longest old path that fits a key decides."""

Path = tuple[str | int, ...]
_PATHS: dict[Path, Path] = {tuple(old.split(".")): tuple(new.split(".")) for old, new in RENAMED_KEYS.items()}
_LONGEST_FIRST = sorted(_PATHS, key=len, reverse=True)


class Part(NamedTuple):
    """A part of a recipe: the path it was written under, its path of today, its value."""

    written: Path
    path: Path
    value: Any

    @property
    def is_renamed(self) -> bool:
        """True for a part that was written under an old name."""
        return self.written != self.path

    def describe(self) -> str:
        """Return ``OLD is now NEW``."""
        return f"{'.'.join(map(str, self.written))} is now {'.'.join(map(str, self.path))}"

    def given_twice(self) -> str:
        """Return the sentence for a key that is given under its old and its new name."""
        return f"{self.describe()}, and both are given; keep {'.'.join(map(str, self.path))}"


def current_path(path: Path) -> Path:
    """Return the path of today of the key that was written as ``path``."""
    for old in _LONGEST_FIRST:
        if path[: len(old)] == old:
            return _PATHS[old] + path[len(old) :]
    return path


def parts_of(value: Any, path: Path = ()) -> Iterator[Part]:
    """Yield ``value``, which was written under ``path``, in parts of which each has one path of today."""
    renamed_inside = any(len(old) > len(path) and old[: len(path)] == path for old in _PATHS)
    if renamed_inside and isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from parts_of(inner, (*path, key))
    else:
        yield Part(path, current_path(path), value)


def rename_keys(values: dict[str, Any]) -> tuple[dict[str, Any], list[Part]]:
    """Return a recipe's values under the keys of today, and the parts that were written under old ones.

    Raises:
        UserError: a key is given under both names.
    """
    result: dict[Any, Any] = {}
    parts = sorted(parts_of(values), key=lambda part: (len(part.path), part.is_renamed))
    for part in parts:
        *parents, last = part.path
        section = result
        for key in parents:
            section[key] = dict(section.get(key) or {})  # a copy: `values` stays as it is
            section = section[key]
        if not part.is_renamed or section.get(last) is None:
            section[last] = part.value
        elif part.value:
            raise UserError(part.given_twice())
    return result, [part for part in parts if part.is_renamed]
