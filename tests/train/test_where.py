"""Where a phase stands, from the descriptions of its checkpoints alone."""

from __future__ import annotations

from pathlib import Path

from megatron_mmbert.builders.run_folder import PhaseFolder
from megatron_mmbert.checkpoint.discovery import step_folder
from megatron_mmbert.checkpoint.metadata import CheckpointMeta, write_meta
from megatron_mmbert.config.recipe import ModelConfig
from megatron_mmbert.train.where import where


def test_newest_that_can_be_read(tmp_path: Path) -> None:
    assert where(tmp_path, "first") == (0, False)
    for step, finished in ((3, False), (7, True)):
        folder = step_folder(PhaseFolder(tmp_path, "first").checkpoints, step)
        folder.mkdir(parents=True)
        meta = CheckpointMeta(model=ModelConfig(), rope_theta=1e4, rope_theta_local=1e4, max_length=64, step=step)
        write_meta(folder, meta.model_copy(update={"finished": finished}))
    assert where(tmp_path, "first") == (7, True)
    (folder / "checkpoint.json").write_text("{")
    assert where(tmp_path, "first") == (3, False)
