"""Counts in human form, and schedules over a phase."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from megatron_mmbert.config.values import LinearRamp, Portion, parse_count


@pytest.mark.parametrize(
    ("written", "count"),
    [
        ("2.3T", 2_300_000_000_000),  # not 2299999999999 or ...0000.0005: decimal arithmetic
        ("1.1T", 1_100_000_000_000),
        ("600B", 600 * 10**9),
        ("600G", 600 * 10**9),
        ("500k", 500_000),
        ("500K", 500_000),
        ("1.5k", 1500),
        ("4_718_592", 4_718_592),
        (" 7 M ", 7_000_000),
        ("1e9", 10**9),
        ("2.5e+3", 2500),
        (1e9, 10**9),
        (12, 12),
    ],
)
def test_counts(written: object, count: int) -> None:
    parsed = parse_count(written)
    assert parsed == count
    assert isinstance(parsed, int)


@pytest.mark.parametrize("written", ["", "1.5", "0.0001k", "-5", "5 X", "1e-3", "1e999", "T", "1,000", True])
def test_no_counts(written: object) -> None:
    with pytest.raises(ValueError, match="write a whole count such as"):
        parse_count(written)


@pytest.mark.parametrize("other", [1.5, float("inf"), None, [1]])
def test_other_types_go_on_to_the_type_check(other: object) -> None:
    assert parse_count(other) is other


def test_linear_ramp_is_clamped_to_its_ends() -> None:
    ramp = LinearRamp.model_validate({"from": 0.75, "to": 0.25})
    assert [ramp.at(x) for x in (-1.0, 0.0, 0.5, 1.0, 2.0)] == [0.75, 0.75, 0.5, 0.25, 0.25]
    assert (ramp.largest, ramp.is_constant, ramp.describe(100, " %")) == (0.75, False, "75 to 25 %")
    assert ramp.model_dump(by_alias=True) == {"from": 0.75, "to": 0.25}


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_number_is_a_constant(value: float, fraction: float) -> None:
    """Exactly, anywhere, and written back as the number."""
    constant = LinearRamp.model_validate(value)
    assert constant == LinearRamp.constant(value) and constant.is_constant
    assert constant.at(fraction) == constant.largest == constant.model_dump(by_alias=True) == value
    assert LinearRamp.constant(0.3).describe() == "0.3"


@pytest.mark.parametrize("written", [0.0, 1.01, float("nan"), {"from": 0.5, "to": 0.0}, {"from": 1.5, "to": 0.5}])
def test_out_of_range(written: float | dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be above 0 and at most 1"):
        TypeAdapter(Portion).validate_python(written)


def test_the_upper_bound_is_allowed() -> None:
    assert TypeAdapter(Portion).validate_python({"from": 1.0, "to": 0.1}) == LinearRamp(start=1.0, end=0.1)
