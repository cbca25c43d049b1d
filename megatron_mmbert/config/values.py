"""Types of a recipe's values: counts in human form (``2.3T``), ratios, and schedules over a phase (``{from, to}``)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

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


Count = Annotated[int, BeforeValidator(parse_count), Field(ge=0)]
PositiveCount = Annotated[int, BeforeValidator(parse_count), Field(gt=0)]
Positive = Annotated[int, Field(gt=0)]
Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
AboveZero = Annotated[float, Field(gt=0)]


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


def check_range(name: str, schedule: LinearRamp, low: float, high: float) -> None:
    """Raise ValueError unless every value of the schedule lies in (low, high]."""
    ends = (schedule.start, schedule.end)
    if not all(math.isfinite(value) and low < value <= high for value in ends):
        raise ValueError(f"{name} must lie above {low:g} and at most at {high:g}")
