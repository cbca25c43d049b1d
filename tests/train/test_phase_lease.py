"""Two trainers on one folder: the second ends with a sentence, and touches nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.step_metrics import step_metrics

from megatron_mmbert.builders.run_folder import PhaseFolder
from megatron_mmbert.parallel import Runtime
from megatron_mmbert.resilience.run_lease import LEASE_FILE, LeaseHeldError, RunLease
from megatron_mmbert.train.phase_lease import LeaseCheck, phase_lease
from megatron_mmbert.utils.errors import UserError


def test_the_second_trainer_is_refused(runtime: Runtime, tmp_path: Path) -> None:
    folder = PhaseFolder(tmp_path, "first")
    with phase_lease(folder) as callbacks:
        assert len(callbacks) == 1
        before = sorted(folder.path.iterdir())
        with pytest.raises(LeaseHeldError, match="has been training here since"), phase_lease(folder):
            pass
        assert sorted(folder.path.iterdir()) == before
        callbacks[0].on_step(step_metrics(1))
    assert list(folder.path.iterdir()) == []


def test_a_lost_lease_ends_the_run(runtime: Runtime, tmp_path: Path) -> None:
    folder = PhaseFolder(tmp_path, "first")
    lease = RunLease(folder.path, renew_seconds=0.01)
    (folder.path / LEASE_FILE).unlink()
    other = RunLease(folder.path)
    lease._thread.join(5)
    with pytest.raises(UserError, match="has taken this folder over"):
        LeaseCheck(lease, folder).on_step(step_metrics(1))
    lease.release()
    assert (folder.path / LEASE_FILE).is_file()
    other.release()
