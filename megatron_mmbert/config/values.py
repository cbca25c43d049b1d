"""Values a recipe may write in a human form: token counts (``2.3T``) and schedules over a phase (``{from, to}``)."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}
_COUNT = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+]?[0-9]{1,2})?)\s*([kKMBGT]?)")


def parse_count(value: Any) -> Any:
    """``600B``, ``4_718_592``, ``1e9`` or a whole number, as an int; anything else goes on to the type check."""
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


class LinearRamp(BaseModel):
    """A value that goes linearly from ``from`` to ``to`` over the phase's tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    start: float = Field(alias="from")
    end: float = Field(alias="to")


Schedule = float | LinearRamp


def value_at(schedule: Schedule, fraction: float) -> float:
    """The schedule's value when ``fraction`` (0 to 1) of the phase's tokens are seen."""
    if isinstance(schedule, LinearRamp):
        return schedule.start + (schedule.end - schedule.start) * min(max(fraction, 0.0), 1.0)
    return schedule


def bounds(schedule: Schedule) -> tuple[float, float]:
    """The smallest and the largest value that the schedule takes."""
    if isinstance(schedule, LinearRamp):
        return min(schedule.start, schedule.end), max(schedule.start, schedule.end)
    return schedule, schedule


def check_range(name: str, schedule: Schedule, low: float, high: float) -> None:
    """Raise ValueError unless every value of the schedule lies in (low, high]."""
    least, most = bounds(schedule)
    if not (math.isfinite(least) and math.isfinite(most) and low < least and most <= high):
        raise ValueError(f"{name} must lie above {low:g} and at most at {high:g}")
