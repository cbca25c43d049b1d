"""Where a phase stands, from its valid checkpoints alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.step_folders import write

from megatron_mmbert.builders.run_folder import PhaseFolder
from megatron_mmbert.checkpoint.discovery import step_folder
from megatron_mmbert.train.where import where
from megatron_mmbert.utils.errors import UserError


def test_the_newest_valid_checkpoint_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert where(tmp_path, "first") == (0, False)
    checkpoints = PhaseFolder(tmp_path, "first").checkpoints
    for step, finished in ((3, False), (7, True)):
        folder = write(step_folder(checkpoints, step), step=step, finished=finished)
    assert where(tmp_path, "first") == (7, True)
    (folder / "data.distcp").write_bytes(b"other")
    assert where(tmp_path, "first") == (3, False), "a run is not complete for a damaged folder that says so"
    assert "data.distcp: content differs" in capsys.readouterr().err
    (step_folder(checkpoints, 3) / "checkpoint.json").write_text("{")
    with pytest.raises(UserError, match="none of the checkpoints is valid"):
        where(tmp_path, "first")
