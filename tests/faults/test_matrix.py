"""All commands under all faults: :mod:`support.fault_matrix`; a sample and all cells, by ``-m faults`` alone."""

from __future__ import annotations

import pytest
from support.fault_matrix.cases import CASES
from support.fault_matrix.matrix import Found, Matrix

from megatron_mmbert import cli

SAMPLE, MIN_CELLS = 300, 5000
SLOW = ("doctor",)  # half a minute each time, and it touches no file: in the whole matrix alone


def test_every_command_is_in_the_matrix() -> None:
    assert {case.argv[0] for case in CASES} == cli.COMMANDS.keys()


@pytest.mark.faults
def test_a_sample_of_the_matrix(matrix: Matrix) -> None:
    found = matrix.run([case for case in CASES if case.name not in SLOW], SAMPLE)
    assert found.cells == SAMPLE
    _assert_right(found)


@pytest.mark.faults
def test_the_whole_matrix(matrix: Matrix) -> None:
    found = matrix.run(CASES)
    assert found.cells == found.of >= MIN_CELLS
    assert found.by_case.keys() == {case.name for case in CASES}
    _assert_right(found)


def _assert_right(found: Found) -> None:
    assert not found.wrong, "\n".join(f"{cell}: {problem}" for cell, problem in found.wrong)
