"""Conditions on a record's other fields: ``--where``, and the copies that FineWeb2 gives a document by its cluster."""

from __future__ import annotations

import operator
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from megatron_mmbert.utils.errors import UserError

CLUSTER_FIELD = "minhash_cluster_size"
_CLUSTER_SIZES, _COPIES = (2, 3, 5, 100, 1000), (1, 2, 3, 5, 8, 1)
"""FineWeb2's own weights (its README): a text that was found often is good, up to where it is a template."""

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}
_CONDITION = re.compile(
    r"""\s*(?P<field>[^\W\d][\w.-]*)\s*(?P<operator>>=|<=|==|!=|>|<|=)\s*
    (?P<value>"[^"]*"|'[^']*'|[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*""",
    re.VERBOSE,
)


class Condition(NamedTuple):
    """One comparison of a field with a number or a string."""

    field: str
    operator: str
    value: float | str

    def holds(self, record: Mapping[str, Any]) -> bool | str:
        """Return whether a record meets it, or the reason why that cannot be told; null meets nothing."""
        value = field_of(record, self.field)
        if value is ...:
            return f"no field {self.field!r}, which --where asks for"
        if value is None:
            return False
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number if isinstance(self.value, float) else isinstance(value, str)):
            wanted = "a number" if isinstance(self.value, float) else "a string"
            return f"field {self.field!r} is {str(value)[:40]!r}, and --where compares it with {wanted}"
        return _OPERATORS[self.operator](value, self.value)


def parse_conditions(text: str) -> tuple[Condition, ...]:
    """Return the conditions of ``language_score >= 0.9 and dump != 'x'``.

    Raises:
        UserError: it is not of this form.
    """
    found = []
    at = 0
    while True:
        match = _CONDITION.match(text, at)
        if match is None:
            break
        value = match["value"]
        found.append(Condition(match["field"], match["operator"], value[1:-1] if value[0] in "\"'" else float(value)))
        at = match.end()
        if at == len(text):
            return tuple(found)
        joint = re.compile(r"and\b", re.IGNORECASE).match(text, at)
        if joint is None:
            break
        at = joint.end()
    raise UserError(
        f"--where {text!r}: not understood from {text[at : at + 20]!r} on; give FIELD OPERATOR VALUE, several joined "
        f"by and, such as \"language_score >= 0.9 and dump != 'x'\"; operators are {' '.join(_OPERATORS)}"
    )


def field_of(record: Mapping[str, Any], name: str) -> Any:
    """Return a field, also one within another (``quality.score``); ``...`` if there is none."""
    if name in record:
        return record[name]
    outer, _, inner = name.partition(".")
    value = record.get(outer)
    return field_of(value, inner) if inner and isinstance(value, Mapping) else ...


def cluster_copies(record: Mapping[str, Any]) -> int | str:
    """Return how often FineWeb2 takes a document, or the reason why that cannot be told."""
    size = field_of(record, CLUSTER_FIELD)
    if size is ...:
        return f"no field {CLUSTER_FIELD!r}, which --rehydrate asks for"
    if not isinstance(size, int) or size < 1:
        return f"field {CLUSTER_FIELD!r} is {str(size)[:40]!r}, not a count of at least 1"
    return _COPIES[bisect_right(_CLUSTER_SIZES, size)]
