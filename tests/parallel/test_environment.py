"""What job scripts set, plain torchrun has too; what the user sets stays."""

from __future__ import annotations

import os

import pytest

from megatron_mmbert import parallel
from megatron_mmbert.parallel import environment


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*environment.DEFAULTS, "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.setenv(name, "")  # to be as it was at the end
        monkeypatch.delenv(name)


@pytest.mark.parametrize("first", [parallel.enable_cpu_mode, parallel.join])
def test_the_first_call_of_any_launcher_sets_them(first: object) -> None:
    assert callable(first)
    parallel.enable_cpu_mode()
    for name in environment.DEFAULTS:
        os.environ.pop(name, None)
    first()
    assert {name: os.environ.get(name) for name in environment.DEFAULTS} == environment.DEFAULTS
    parallel.start(seed=1)
    parallel.shutdown()


def test_what_is_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "8")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:512")
    environment.set_defaults()
    assert os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] == "8"
    assert "PYTORCH_ALLOC_CONF" not in os.environ, "the allocator would take it for the whole of its settings"
