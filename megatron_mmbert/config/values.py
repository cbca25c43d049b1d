"""Types of a recipe's values: counts in human form (``2.3T``), ratios, and schedules over a phase (``{from, to}``)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_serializer,
    model_validator,
)

from megatron_mmbert.utils.bounds import MAX_COUNT, Range

_UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}
_COUNT = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+]?[0-9]{1,2})?)\s*([kKMBGT]?)")


def parse_count(value: Any) -> Any:
    """Return ``600B``, ``4_718_592``, ``1e9`` or a whole number as an int; anything else is left to the type check."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str | bool):
        return value
    match = _COUNT.fullmatch(str(value).strip())
    # Decimal: 2.3 * 10**12 is no whole number in binary floating point
    count = Decimal(match[1].replace("_", "")) * _UNITS[match[2]] if match else None
    if count is None or count != count.to_integral_value():
        raise ValueError("write a whole count such as 4718592, 4_718_592, 600B or 2.3T")
    return int(count)


@dataclass(frozen=True)
class Within:
    """A check that a number, or both ends of a :class:`LinearRamp`, lie in ``range``; its message says the range."""

    range: Range

    def __call__(self, value: Any, check_type: ValidatorFunctionWrapHandler) -> Any:
        """Return ``value`` as its type has it; raises ValueError where it is no number of the range."""
        try:
            number = check_type(value)
        except ValidationError as error:
            kind = error.errors()[0]["type"]
            if kind.startswith(("int", "float", "finite")):
                raise ValueError(f"must be a {'whole ' * ('int' in kind)}number {self.range}") from None
            raise
        if isinstance(value, bool):
            raise ValueError(f"must be a number {self.range}")
        ends = (number.start, number.end) if isinstance(number, LinearRamp) else (number,)
        if not all(end in self.range for end in ends):
            raise ValueError(f"must be {self.range}")
        return number


def within(low: float, high: float, above: bool = False, below: bool = False) -> WrapValidator:
    """Return the range of a key, for its annotation; the last two leave out the bounds themselves."""
    return WrapValidator(Within(Range(low, high, above, below)))


Count = Annotated[int, BeforeValidator(parse_count), within(0, MAX_COUNT)]
PositiveCount = Annotated[int, BeforeValidator(parse_count), within(1, MAX_COUNT)]
Ratio = Annotated[float, within(0, 1)]
Factor = Annotated[float, within(0, 1e15, above=True)]
"""Weights of a mixture, of any sum."""


class LinearRamp(BaseModel):
    """A value that moves linearly from ``start`` to ``end`` over the phase's tokens; a plain number is a constant.

    In YAML ``{from: 0.3, to: 0.15}``, or ``0.3``, which is written back as the plain number.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True)

    start: float = Field(alias="from")
    """The value at the start of the phase."""
    end: float = Field(alias="to")
    """The value at the end of the phase."""

    @classmethod
    def constant(cls, value: float) -> LinearRamp:
        """Return the schedule that is ``value`` throughout."""
        return cls.model_validate(value)

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        return value if isinstance(value, Mapping | LinearRamp) else {"from": value, "to": value}

    @model_serializer(mode="wrap")
    def _as_written(self, write: SerializerFunctionWrapHandler) -> Any:
        return self.start if self.is_constant else write(self)

    @property
    def is_constant(self) -> bool:
        """True where the value is the same throughout."""
        return self.start == self.end

    @property
    def largest(self) -> float:
        """The largest value over the phase."""
        return max(self.start, self.end)

    def at(self, fraction: float) -> float:
        """Return the value when ``fraction`` of the phase's tokens are seen, clamped to [0, 1].

        A constant is returned as it is: weighted by 1 - x and x it could come out one unit of the last place off.
        """
        if self.is_constant:
            return self.start
        x = min(max(fraction, 0.0), 1.0)
        return self.start * (1.0 - x) + self.end * x

    def describe(self, scale: float = 1.0, unit: str = "") -> str:
        """Return the schedule as text, values times ``scale``: ``0.3``, ``30 to 15 %``."""
        values = [self.start] if self.is_constant else [self.start, self.end]
        return " to ".join(f"{scale * value:g}" for value in values) + unit


Portion = Annotated[LinearRamp, within(0, 1, above=True)]
"""A schedule in (0, 1]."""
