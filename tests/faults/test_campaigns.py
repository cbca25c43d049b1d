"""A training under campaigns of faults, few and many of each; all with ``-m faults`` alone."""

from __future__ import annotations

import pytest
from support.fault_matrix.campaigns import PRETRAIN, TWO_RANKS, Campaign
from support.fault_matrix.matrix import Matrix

pytestmark = pytest.mark.faults


def counts(few: int, many: int) -> pytest.MarkDecorator:
    """Try ``few``, and ``many``."""
    return pytest.mark.parametrize("count", [few, many])


@counts(4, 100)
def test_kills_at_random_moments(count: int, matrix: Matrix) -> None:
    assert not list(Campaign(matrix.benches[0], PRETRAIN).kills(count))


@counts(2, 30)
def test_kills_of_two_ranks(count: int, matrix: Matrix) -> None:
    assert not list(Campaign(matrix.benches[0], TWO_RANKS).kills(count))


@counts(4, 50)
def test_losses_of_power(count: int, matrix: Matrix) -> None:
    assert not list(Campaign(matrix.benches[0], PRETRAIN).power_losses(count))


@counts(2, 20)
def test_pairs_of_trainers_on_one_folder(count: int, matrix: Matrix) -> None:
    assert not list(Campaign(matrix.benches[0], PRETRAIN).pairs(count))


@counts(3, 20)
def test_the_newest_checkpoint_is_damaged(count: int, matrix: Matrix) -> None:
    assert not list(Campaign(matrix.benches[0], PRETRAIN).damaged_newest(count))


@counts(2, 10)
def test_all_checkpoints_are_damaged(count: int, matrix: Matrix) -> None:
    assert not list(Campaign(matrix.benches[0], PRETRAIN).all_damaged(count))
