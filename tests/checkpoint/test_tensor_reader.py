"""Whole tensors out of a checkpoint and into one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from support.run_to_save import META, MODEL, Run

from megatron_mmbert.checkpoint.commit import checksum_problems
from megatron_mmbert.checkpoint.metadata import META_FILE, read_meta, write_meta
from megatron_mmbert.checkpoint.tensor_reader import CheckpointTensors, write_tensors
from megatron_mmbert.utils.errors import UserError


def test_read_what_training_saved(saved: Path) -> None:
    run = Run(9)
    run.load(saved)
    tensors = CheckpointTensors(saved)
    parameters = dict(run.encoder.named_parameters())
    assert sorted(tensors.names()) == sorted(parameters)
    for name, parameter in parameters.items():
        assert tensors.shape(name) == tuple(parameter.shape)
        assert torch.equal(tensors.load(name), parameter)


def test_training_starts_from_whole_tensors(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(p.shape, generator=draw) for name, p in Run(1).encoder.named_parameters()}
    path = tmp_path / "weights"
    write_tensors(path, META, tensors)
    assert list(checksum_problems(path)) == [] and not read_meta(path).has_optimizer
    run = Run(9)
    run.load(path, with_optimizer=False)
    assert all(torch.equal(parameter, tensors[name]) for name, parameter in run.encoder.named_parameters())
    read = CheckpointTensors(path)
    assert all(torch.equal(read.load(name), tensors[name]) for name in tensors)


def test_bf16_run_gives_its_master_weights(tmp_path: Path) -> None:
    """Exported and merged models have the fp32 precision that the optimizer kept."""
    run = Run(3, "bf16")
    run.train(2)
    masters = CheckpointTensors(run.save(tmp_path / "step-00000002"))
    rounded = CheckpointTensors(run.save(tmp_path / "weights", with_optimizer=False))
    for name, parameter in run.encoder.named_parameters():
        assert masters.load(name).dtype == torch.float32
        assert torch.equal(masters.load(name).bfloat16(), parameter)
        assert torch.equal(rounded.load(name), parameter.float())
    table = "embedding.word_embeddings.weight"
    assert not torch.equal(masters.load(table), rounded.load(table))


def test_missing_tensor_is_named(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "deeper"
    shutil.copytree(saved, path)
    (path / META_FILE).unlink()
    write_meta(path, META.model_copy(update={"model": MODEL.model_copy(update={"num_layers": 3})}))
    with pytest.raises(UserError, match=r"encoder\.layers\.2\."):
        CheckpointTensors(path)
