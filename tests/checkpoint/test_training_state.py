"""Saving and loading a run: nothing of it is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core.dist_checkpointing import load_tensors_metadata
from support.run_to_save import MODEL, Run, assert_equal

from megatron_mmbert.checkpoint.commit import checksum_problems
from megatron_mmbert.checkpoint.metadata import read_meta
from megatron_mmbert.checkpoint.training_state import check_shape
from megatron_mmbert.utils.errors import UserError


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(("saving", "loading"), [(False, False), (True, True), (False, True), (True, False)])
def test_resume_equals_the_uninterrupted_run(dtype: str, saving: bool, loading: bool, tmp_path: Path) -> None:
    """Three steps, save, load into another run, three steps: as six steps, bit for bit, optimizer included; saved and
    loaded with or without the distributed optimizer."""
    whole = Run(3, dtype, saving)
    losses = whole.train(6)
    first = Run(3, dtype, saving)
    assert first.train(3) == losses[:3]
    path = first.save(tmp_path / "step-00000003")
    assert read_meta(path).has_optimizer and list(checksum_problems(path)) == []
    resumed = Run(9, dtype, loading)
    resumed.load(path)
    assert_equal(resumed.state(), first.state())
    assert resumed.train(3) == losses[3:]
    assert_equal(resumed.state(), whole.state())
    assert len(set(losses)) == 6  # the steps differ, and so would a run that stood still


def test_bf16_and_fp32_runs_read_each_other(tmp_path: Path) -> None:
    """The masters of one are the weights of the other; nothing is rounded on the way to fp32."""
    narrow = Run(3, "bf16")
    narrow.train(2)
    wide = Run(9)
    wide.load(narrow.save(tmp_path / "step-00000002"))
    masters = {shard.name: shard.tensor for shard in narrow.optimizer.shards}
    assert all(torch.equal(parameter, masters[name]) for name, parameter in wide.encoder.named_parameters())
    assert any((masters[name] != value).any() for name, value in narrow.encoder.named_parameters())
    back = Run(9, "bf16")
    back.load(wide.save(tmp_path / "step-00000003"))
    assert_equal(back.state(), narrow.state())


def test_the_optimizers_state_has_one_format(tmp_path: Path) -> None:
    """Names and shapes are those of the logical tensors, whichever optimizer wrote them."""
    stored = []
    for distributed in (False, True):
        run = Run(3, "bf16", distributed)
        run.train(1)
        path = run.save(tmp_path / f"step-0000000{int(distributed)}")
        stored.append({name: value.global_shape for name, value in load_tensors_metadata(str(path)).items()})
    assert stored[0] == stored[1]
    for name, parameter in run.encoder.named_parameters():
        for kind in ("exp_avg", "exp_avg_sq", "fp32_param"):
            assert stored[0][f"optimizer.state.{kind}.{name}"] == tuple(parameter.shape)


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
