"""Megatron-Core without CUDA."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from support import ROOT

from megatron_mmbert.parallel import cpu_mode

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="nothing is patched where there is CUDA")


def patched() -> list[object]:
    from megatron.core.optimizer import clip_grads, distrib_optimizer, optimizer
    from megatron.core.tensor_parallel import random as mcore_random

    return [
        *(getattr(torch, name) for name in ("tensor", "zeros", "empty", "ones", "empty_like")),
        *(torch.Tensor.cuda, torch.cuda.current_device, torch.cuda.get_rng_state, torch.cuda.set_rng_state),
        *(mcore_random._get_cuda_rng_state, mcore_random._set_cuda_rng_state),
        *(clip_grads.clip_grad_by_total_norm_fp32, optimizer.clip_grad_by_total_norm_fp32),
        *(optimizer.Float16OptimizerWithFloat16Params.__init__, distrib_optimizer.DistributedOptimizer.__init__),
    ]


def test_enabling_twice_is_enabling_once() -> None:
    assert cpu_mode.enable_cpu_mode() is True
    first = patched()
    assert cpu_mode.enable_cpu_mode() is True
    assert [a is b for a, b in zip(first, patched(), strict=True)] == [True] * len(first)


def test_cuda_tensors_live_on_the_cpu() -> None:
    cpu_mode.enable_cpu_mode()
    for made in (torch.zeros(2, device="cuda"), torch.empty(2, device="cuda:0"), torch.tensor([1, 2], device="cuda")):
        assert made.device.type == "cpu"
    assert torch.zeros(2, pin_memory=True).device.type == "cpu"
    x = torch.ones(2)
    assert x.cuda() is x
    assert torch.zeros(2, device="meta").device.type == "meta", "other devices are left alone"


def test_device_contexts_still_work() -> None:
    """Code that builds a model on the meta device (transformers does) gets meta tensors."""
    cpu_mode.enable_cpu_mode()
    with torch.device("meta"):
        made = (torch.zeros(2), torch.empty(2), torch.tensor([1]), torch.ones(1), torch.nn.Linear(2, 2).weight)
    assert {tensor.device.type for tensor in made} == {"meta"}


def test_type_names_are_those_of_cuda_only_while_an_optimizer_asks() -> None:
    cpu_mode.enable_cpu_mode()
    x = torch.ones(2)
    with cpu_mode._cuda_type_names():
        assert x.type() == "torch.cuda.FloatTensor"
        assert x.bfloat16().type() == "torch.cuda.BFloat16Tensor"
        assert x.type(torch.float64).dtype == torch.float64, "a conversion still converts"
    assert x.type() == "torch.FloatTensor"


def test_the_random_state_is_the_cpus() -> None:
    cpu_mode.enable_cpu_mode()
    torch.cuda.manual_seed(5)
    state = torch.cuda.get_rng_state()
    drawn = torch.rand(3)
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.rand(3), drawn)
    assert torch.equal(torch.rand(3, generator=torch.Generator().manual_seed(5)), drawn)


def test_the_allocator_keeps_what_is_freed_unless_the_user_has_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[int, int] = {}

    class Library:
        def __init__(self, name: None) -> None:
            pass

        def mallopt(self, option: int, value: int) -> None:
            asked[option] = value

    monkeypatch.setattr(cpu_mode.ctypes, "CDLL", Library)
    for name in cpu_mode._ALLOCATOR_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MALLOC_TOP_PAD_", "0")
    cpu_mode._keep_freed_memory()
    assert not asked
    monkeypatch.delenv("MALLOC_TOP_PAD_")
    cpu_mode._keep_freed_memory()
    assert asked == cpu_mode._MALLOC_OPTIONS


def test_it_needs_nothing_imported_before() -> None:
    """A tool may start the runtime before anything else has loaded torch's parts."""
    code = "from megatron_mmbert import parallel; parallel.enable_cpu_mode(); parallel.start(); parallel.shutdown()"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("call", ["start", "join"])
def test_without_it_nothing_starts_on_a_cpu(call: str) -> None:
    """A host program is not changed behind its back: it is told which function changes it."""
    code = (
        "import torch; from megatron_mmbert import parallel; from megatron_mmbert.utils.errors import UserError\n"
        f"try: parallel.{call}()\n"
        "except UserError as error: print(error, torch.distributed.is_initialized(), 'cuda' in vars(torch.Tensor))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert "call megatron_mmbert.parallel.enable_cpu_mode() first" in done.stdout, done.stderr
    assert done.stdout.strip().endswith("False False"), "no process group, no patch"


def test_commands_that_start_the_runtime_enable_it() -> None:
    package = ROOT / "megatron_mmbert"
    entries = [package / "pretrain.py", package / "doctor.py", *(package / "commands").rglob("*.py")]
    entries += [*(ROOT / "tools").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    starting = [path for path in entries if "parallel.start(" in path.read_text(encoding="utf-8")]
    assert len(starting) > 5
    assert [path for path in starting if "parallel.enable_cpu_mode()" not in path.read_text(encoding="utf-8")] == []
