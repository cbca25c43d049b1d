"""Saving and loading a run: nothing of it is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from run_to_save import MODEL, Run, assert_equal

from megatron_mmbert.checkpoint.folder import problems, read_meta
from megatron_mmbert.checkpoint.training import check_shape
from megatron_mmbert.errors import UserError


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_resume_equals_the_uninterrupted_run(dtype: str, tmp_path: Path) -> None:
    """Three steps, save, load into another run, three steps: as six steps, bit for bit, optimizer included."""
    whole = Run(3, dtype)
    losses = whole.train(6)
    first = Run(3, dtype)
    assert first.train(3) == losses[:3]
    path = first.save(tmp_path / "step-00000003")
    assert read_meta(path).has_optimizer and list(problems(path)) == []
    resumed = Run(9, dtype)
    resumed.load(path)
    assert_equal(resumed.state(), first.state())
    assert resumed.train(3) == losses[3:]
    assert_equal(resumed.state(), whole.state())
    assert len(set(losses)) == 6  # the steps differ, and so would a run that stood still


def test_without_the_optimizer_the_run_differs(tmp_path: Path) -> None:
    """The test above would notice lost moments."""
    whole, first, resumed = Run(3), Run(3), Run(9)
    losses = whole.train(6)
    first.train(3)
    path = first.save(tmp_path / "step-00000003", with_optimizer=False)
    assert not read_meta(path).has_optimizer
    resumed.load(path, with_optimizer=False)
    state, before = resumed.state(), first.state()
    assert all(torch.equal(state[name], before[name]) for name, _ in first.encoder.named_parameters())
    assert resumed.train(3) != losses[3:]


CHANGES: dict[str, Any] = {
    "num_layers": 3,
    "hidden_size": 64,
    "ffn_hidden_size": 64,
    "num_attention_heads": 4,
    "vocab_size": 512,
    "global_attention_every": 2,
    "window_each_side": 32,
    "norm_eps": 1e-6,
}


@pytest.mark.parametrize("field", CHANGES)
def test_other_shape_is_named(field: str, saved: Path) -> None:
    with pytest.raises(UserError, match=rf"has {field} .* and the recipe {CHANGES[field]}"):
        check_shape(saved, MODEL.model_copy(update={field: CHANGES[field]}))


def test_what_may_differ(saved: Path) -> None:
    """Length and dropout belong to a phase, not to the weights."""
    changed = MODEL.model_copy(update={"max_length": 8192, "attention_output_dropout": 0.5})
    assert check_shape(saved, changed) == read_meta(saved)
