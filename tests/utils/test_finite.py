"""Tensors that are not finite are recognized, of every type, and JSON never says NaN."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from support import ROOT

from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import to_json, write_json
from megatron_mmbert.utils.finite import check_finite, finite_problem, is_finite

BAD = (float("nan"), float("inf"), float("-inf"))
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e5m2)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", [0, 500, -1])
def test_one_bad_value_is_found(bad: float, dtype: torch.dtype, place: int) -> None:
    values = torch.ones(1001)
    assert is_finite(values.to(dtype))
    values[place] = bad
    assert not is_finite(values.to(dtype))


def test_both_infinities() -> None:
    assert not is_finite(torch.tensor([float("inf"), float("-inf"), 1.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_sum_that_overflows_is_no_fault(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    assert is_finite(torch.full((64, 64), largest, dtype=dtype))
    assert not is_finite(torch.tensor([largest, largest, float("nan")], dtype=dtype))


def test_what_has_no_such_values() -> None:
    assert is_finite(torch.empty(0)) and is_finite(torch.arange(3)) and is_finite(torch.ones(4, 4).t()[1:])


def test_the_sentence_names_place_tensor_and_number(tmp_path: Path) -> None:
    tensor = torch.tensor([1.0, float("nan"), float("inf")])
    assert finite_problem(torch.ones(2), "w") is None
    with pytest.raises(UserError, match=rf"{tmp_path}: tensor 'w' has 2 values that are not finite .*; try another"):
        check_finite(tensor, "w", tmp_path, "try another")


@pytest.mark.parametrize("bad", BAD)
def test_json_of_no_number_is_refused(bad: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not finite"):
        to_json({"score": [bad]})
    with pytest.raises(UserError, match="not finite"):
        write_json(tmp_path / "x.json", {"score": bad})
    assert not list(tmp_path.iterdir())


def test_all_json_is_written_by_one_function() -> None:
    files = [path for path in (ROOT / "megatron_mmbert").rglob("*.py") if path.name != "files.py"]
    assert not [path for path in files if re.search(r"json\.dumps?\(", path.read_text(encoding="utf-8"))]
