"""Timing of a matrix product: the GPU's queue is empty when the clock starts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from megatron_mmbert.kernels import matmul_peak


def test_what_is_queued_before_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    def note(event: str, result: Any = None) -> Any:
        return lambda *_: events.append(event) or result

    monkeypatch.setattr(torch.cuda, "synchronize", note("wait"))
    monkeypatch.setattr(torch, "matmul", note("product"))
    monkeypatch.setattr(matmul_peak, "time", SimpleNamespace(perf_counter=note("clock", 0.0)))
    matmul_peak._seconds(SimpleNamespace(is_cuda=True))  # type: ignore[arg-type]
    assert events == ["wait", "clock", "product", "wait", "clock"]


def test_the_rate_is_that_of_the_best_product() -> None:
    assert matmul_peak.measured_tflops(torch.device("cpu"), torch.float32, seconds=0.01) > 0
