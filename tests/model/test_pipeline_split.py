"""How layers are spread over pipeline stages."""

from __future__ import annotations

import pytest

from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.model.pipeline_split import balanced_split, head_in_layers, stage_layout
from megatron_mmbert.utils.errors import UserError

BASE = ModelConfig()


@pytest.mark.parametrize(
    ("layers", "stages", "head", "expected"),
    [
        (22, 4, 1, [5, 6, 6, 5]),
        (22, 8, 1, [2, 3, 3, 3, 3, 3, 3, 2]),
        (22, 2, 12, [17, 5]),
        (7, 4, 1, [1, 3, 2, 1]),
        (7, 8, 1, [0, 2, 1, 1, 1, 1, 1, 0]),
        (22, 4, 12, [6, 8, 8, 0]),
    ],
)
def test_balanced(layers: int, stages: int, head: int, expected: list[int]) -> None:
    assert balanced_split(layers, stages, head) == expected


@pytest.mark.parametrize("head", [1, 3, 12])
@pytest.mark.parametrize("stages", range(2, 13))
@pytest.mark.parametrize("layers", [12, 22, 28])
def test_no_split_has_an_emptier_fullest_stage(layers: int, stages: int, head: int) -> None:
    """The bound: the mean load, and what a single stage must hold."""
    split = balanced_split(layers, stages, head)
    assert sum(split) == layers and all(split[1:-1])
    loads = [count + (place == 0) + head * (place == stages - 1) for place, count in enumerate(split)]
    spread_without_head = -(-(layers + 1) // (stages - 1))
    least = -(-(layers + 1 + head) // stages)
    assert max(loads) == max(head, least if head <= least else spread_without_head)


def test_the_heads_cost_is_counted_in_layers() -> None:
    assert head_in_layers(BASE, 0.3) == 12
    assert head_in_layers(BASE, 0.05) == 2
    assert head_in_layers(BASE.model_copy(update={"vocab_size": 384}), 0.3) == 1


def test_layout_for_megatron() -> None:
    small = BASE.model_copy(update={"num_layers": 4, "vocab_size": 384})
    assert stage_layout(small, 2, None, 0.3) == [["embedding", "decoder", "decoder"], ["decoder", "decoder", "loss"]]
    assert stage_layout(small, 2, [1, 3], 0.3)[0] == ["embedding", "decoder"]


def test_too_many_stages() -> None:
    with pytest.raises(UserError, match=r"4 layers cannot fill 7 pipeline stages; lower parallel\.pipeline"):
        balanced_split(4, 7, 1)
