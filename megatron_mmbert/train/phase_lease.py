"""The lease of a phase's folder for all ranks together: rank 0 holds it, and every rank ends if it cannot be had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from megatron_mmbert.builders.run_folder import PhaseFolder
from megatron_mmbert.parallel.runtime import broadcast_object, current
from megatron_mmbert.resilience.run_lease import LeaseHeldError, RunLease
from megatron_mmbert.train.callbacks.base import Callback
from megatron_mmbert.train.metrics import StepMetrics
from megatron_mmbert.utils.errors import UserError


class LeaseCheck(Callback):
    """End the run when another process has taken the folder over, before anything more is written there."""

    def __init__(self, lease: RunLease, folder: PhaseFolder) -> None:
        self._lease, self._folder = lease, folder

    def on_step(self, metrics: StepMetrics) -> None:
        holder = self._lease.lost_to()
        if holder is not None:
            raise UserError(
                f"{self._folder.path}: {holder} has taken this folder over, as this process gave no sign of life for a "
                "while; this one ends without saving"
            )


@contextmanager
def phase_lease(folder: PhaseFolder) -> Iterator[list[Callback]]:
    """Hold the lease; yields what checks it on this rank. Called by all ranks together.

    Raises:
        LeaseHeldError: on every rank, if another trainer has the folder.
    """
    lease: RunLease | None = None
    problem = ""
    if current().is_main:
        try:
            lease = RunLease(folder.path)
        except LeaseHeldError as error:
            problem = str(error)
    if problem := str(broadcast_object(problem)):
        raise LeaseHeldError(problem)
    try:
        yield [] if lease is None else [LeaseCheck(lease, folder)]
    finally:
        if lease is not None:
            lease.release()
