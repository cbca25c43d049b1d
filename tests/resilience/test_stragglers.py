"""A slow rank is named, with its host; ranks that are alike are not."""

from __future__ import annotations

import pytest

from megatron_mmbert.resilience import stragglers
from megatron_mmbert.resilience.stragglers import StragglerDetector


@pytest.fixture(autouse=True)
def _hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stragglers, "all_ranks", lambda value: [f"node{number}" for number in range(4)])


@pytest.mark.parametrize(
    ("means", "said"),
    [
        ([0.10, 0.11, 0.10, 0.12], None),
        ([0.10, 0.11, 0.10, 0.31], "rank 3 on node3 (3.1 x) of the median's 100 ms for a step"),
        (
            [0.10, 0.20, 0.10, 0.20],
            "rank 1 on node1 (2.0 x), rank 3 on node3 (2.0 x) of the median's 100 ms for a step",
        ),
        ([0.1, 0.3], "rank 1 on node1 (3.0 x) of the median's 100 ms for a step"),
    ],
)
def test_judgement(means: list[float], said: str | None) -> None:
    assert StragglerDetector(1.5)._compare(means, "a step") == said
