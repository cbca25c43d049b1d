"""Merging Megatron checkpoints: the result is a sound checkpoint, with its report beside it."""

from __future__ import annotations

from pathlib import Path

import torch
from support.tiny_checkpoint import make_checkpoint

from megatron_mmbert.checkpoint.discovery import resolve
from megatron_mmbert.checkpoint.tensor_reader import CheckpointTensors
from megatron_mmbert.merge.request import MergeRequest
from megatron_mmbert.merge.run import merge_folders
from megatron_mmbert.parallel import Runtime


def test_a_merged_checkpoint_is_sound_with_its_report(tmp_path: Path, runtime: Runtime) -> None:
    models = [make_checkpoint(tmp_path / name) for name in ("base", "one", "two")]
    output = tmp_path / "merged"
    merge_folders(MergeRequest("linear", None, tuple(models)), output)
    assert (output / "merge_report.json").is_file()
    assert resolve(output) == output, "a report is none of the files that a checkpoint is read from"
    merged, one = CheckpointTensors(output), CheckpointTensors(models[1])
    name = merged.names()[0]
    torch.testing.assert_close(merged.load(name), one.load(name))
