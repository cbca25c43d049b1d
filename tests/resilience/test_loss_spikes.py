"""The rule for loss spikes: sees real ones, not noise, not a slow fall, and does not get used to them."""

from __future__ import annotations

import math
import random

from megatron_mmbert.resilience.loss_spikes import LossSpikeRule


def falling(steps: int, noise: float, seed: int = 1) -> list[float]:
    draw = random.Random(seed)
    return [2 + 8 * math.exp(-step / 200) + draw.gauss(0, noise) for step in range(steps)]


def test_an_ordinary_run_has_no_spikes() -> None:
    rule = LossSpikeRule(8.0, 128)
    assert not any(rule.is_spike(loss) for loss in falling(3000, 0.05))


def test_a_spike_is_seen_and_does_not_move_the_rule() -> None:
    rule = LossSpikeRule(8.0, 128)
    losses = falling(1000, 0.02)
    for loss in losses:
        rule.is_spike(loss)
    before = rule.losses
    assert all(rule.is_spike(losses[-1] + 0.5) for _ in range(50)), "fifty in a row: still spikes"
    assert rule.losses == before
    assert not rule.is_spike(losses[-1])


def test_a_plateau_without_noise_has_no_spikes_by_rounding() -> None:
    rule = LossSpikeRule(8.0, 32)
    assert not any(rule.is_spike(2.0 + 1e-4 * (step % 3 == 0)) for step in range(100))
    assert rule.is_spike(2.1)


def test_no_judgement_without_history_and_none_with_an_infinite_threshold() -> None:
    assert not any(LossSpikeRule(8.0, 128).is_spike(loss) for loss in (10.0, 2.0, 50.0))
    endless = LossSpikeRule(math.inf, 128, [2.0] * 100)
    assert not endless.is_spike(1e9)


def test_taken_up_again_it_judges_alike() -> None:
    losses = falling(300, 0.05)
    whole = LossSpikeRule(8.0, 64)
    for loss in losses:
        whole.is_spike(loss)
    again = LossSpikeRule(8.0, 64, whole.losses)
    assert [whole.height(value) for value in (2.0, 3.0, 9.0)] == [again.height(value) for value in (2.0, 3.0, 9.0)]
