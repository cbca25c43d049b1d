"""Bandwidths are measured: twice the repeats do not double them, and they are of a machine's order."""

from __future__ import annotations

import time

import pytest
import torch

from megatron_mmbert.kernels import bandwidth

CPU = torch.device("cpu")


def test_the_shortest_run_counts_and_the_first_does_not() -> None:
    waits = iter([0.0, 0.03, 0.01, 0.02])
    assert 0.01 <= bandwidth.best_seconds(lambda: time.sleep(next(waits)), CPU, repeats=3) < 0.02


def test_a_copy_counts_bytes_read_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "_HOST_BYTES", 1000)
    monkeypatch.setattr(bandwidth, "best_seconds", lambda work, device: work() is None or 1e-6)
    assert bandwidth.copied(CPU) == pytest.approx(2.0)
