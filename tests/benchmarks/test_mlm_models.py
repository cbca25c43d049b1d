"""What the training benchmark compares is the same: loss and gradients of ours and of transformers' ModernBERT."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import mlm_models  # noqa: E402
import train_step  # noqa: E402
from mlm_samples import IGNORED, Sample  # noqa: E402

from megatron_mmbert.utils.errors import UserError  # noqa: E402


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peer")
    mlm_models.make_peer("tiny", folder)
    return folder


def samples(*lengths: int) -> list[Sample]:
    rng = np.random.default_rng(3)
    made = []
    for length in lengths:
        ids = rng.integers(5, mlm_models.SHAPES["tiny"].vocab_size, length)
        made.append(Sample(ids, np.where(rng.random(length) < 0.3, ids, IGNORED)))
    return made


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_loss_and_gradients_are_the_peers(peer: Path, dtype: mlm_models.Dtype) -> None:
    """Longer than the window, of unequal lengths, so that the peer pads."""
    train_step._require_same(mlm_models.deviations("tiny", peer, samples(300, 41, 5, 200), dtype), dtype)


def test_models_that_differ_are_not_compared(peer: Path) -> None:
    found = mlm_models.deviations("tiny", peer, samples(70), "bf16")
    with pytest.raises(UserError, match="disagree"):
        train_step._require_same(found | {"our_rounding": 1.3 * found["their_rounding"]}, "bf16")
    with pytest.raises(UserError, match="disagree"):
        train_step._require_same(found | {"worst_gradient_difference": 0.01}, "fp32")
