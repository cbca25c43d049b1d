"""Memory that is used again: never under the feet of one who still holds it."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from megatron_mmbert.kernels.geglu import geglu
from megatron_mmbert.kernels.scratch import Slot, on_huge_pages, poison_scratch, recycled, scratch


@pytest.fixture
def poisoned() -> Iterator[None]:
    poison_scratch(True)
    yield
    poison_scratch(False)


def test_a_slot_is_one_place_that_grows() -> None:
    small = scratch(Slot.ATTENDED, (2, 3), torch.float32)
    assert small.shape == (2, 3) and small.is_contiguous()
    large = scratch(Slot.ATTENDED, (2**20,), torch.float64)
    again = scratch(Slot.ATTENDED, (5,), torch.bfloat16)
    assert again.data_ptr() == large.data_ptr() and again.dtype == torch.bfloat16
    assert scratch(Slot.ROTATED, (5,), torch.float32).data_ptr() != large.data_ptr()


def test_autograd_sees_no_write_to_what_it_saved() -> None:
    """Unlike views of one tensor, tensors of a slot have versions of their own: who computes again must be able to."""
    scale = torch.nn.Parameter(torch.tensor(2.0))
    out = scratch(Slot.ATTENDED, (3,), torch.float32).fill_(1) * scale
    scratch(Slot.ATTENDED, (3,), torch.float32).fill_(5)
    out.sum().backward()
    assert scale.grad == 15, "the second tensor is not where the first was"


def test_threads_have_their_own() -> None:
    places = [scratch(Slot.ATTENDED, (3,), torch.float32).data_ptr()]
    thread = threading.Thread(target=lambda: places.append(scratch(Slot.ATTENDED, (3,), torch.float32).data_ptr()))
    thread.start()
    thread.join()
    assert places[0] != places[1]


def test_what_is_held_is_not_used_again() -> None:
    first = recycled("test", (4, 4), torch.float32)
    place, view = first.data_ptr(), first.detach()[1:]
    del first
    second = recycled("test", (4, 4), torch.float32)
    assert second.data_ptr() != place, "a view is still there"
    del view
    place = second.data_ptr()
    del second
    assert recycled("test", (16,), torch.float32).data_ptr() == place
    assert recycled("test", (17,), torch.float32).shape == (17,)


def test_a_gradient_is_held_as_long_as_the_parameter_has_it() -> None:
    parameter = torch.nn.Parameter(torch.zeros(8))

    class Ones(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x.sum()

        @staticmethod
        def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return recycled("gradient", (8,), torch.float32).fill_(1)

    for _ in range(3):
        Ones.apply(parameter).backward()
    assert parameter.grad is not None and parameter.grad.tolist() == [3.0] * 8


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has madvise")
def test_a_large_tensor_is_advised() -> None:
    large = torch.UntypedStorage(2**27 + 2**22)
    # A mapping of its own: the allocator may serve a small request from a mapping that an earlier tensor had advised.
    small = torch.frombuffer(mmap.mmap(-1, 2**22), dtype=torch.uint8).untyped_storage()
    inside = large.data_ptr() + 2**26, small.data_ptr() + 2**21  # pytest would print a storage in a message whole
    before = [_flags_at(address) for address in inside]
    given = [on_huge_pages(storage).data_ptr() for storage in (large, small)]
    after = [_flags_at(address) for address in inside]
    assert given == [inside[0] - 2**26, inside[1] - 2**21]
    assert ["hg" in flags for flags in before] == [False, False]
    assert ["hg" in flags for flags in after] == [True, False]
    total = int(torch.tensor([], dtype=torch.uint8).set_(large).fill_(1).sum())  # type: ignore[call-overload]
    assert total == 2**27 + 2**22


def _flags_at(address: int) -> list[str]:
    """The kernel's flags of the mapping that has the address; ``hg``: huge pages were asked for."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name = line.split()[0]
        if "-" in name and not name.endswith(":"):
            start, stop = (int(part, 16) for part in name.split("-"))
            inside = start <= address < stop
        elif inside and name == "VmFlags:":
            return line.split()[1:]
    raise AssertionError(f"no mapping has {address:#x}")


def late_reader() -> tuple[torch.Tensor, torch.Tensor]:
    """The weight's gradient of a layer that keeps an activation which lies in scratch, and the right one."""
    draw = torch.Generator().manual_seed(0)
    x, other = (torch.randn(16, 8, generator=draw) for _ in range(2))
    weight = torch.nn.Parameter(torch.randn(3, 4, generator=draw))
    out = F.linear(geglu(x, passing=True), weight)  # the misuse: nothing computes this input again
    geglu(other, passing=True)  # the next layer's
    (found,) = torch.autograd.grad(out.sum(), weight)
    (right,) = torch.autograd.grad(F.linear(geglu(x), weight).sum(), weight)
    return found, right


def test_a_late_reader_is_silently_wrong() -> None:
    found, right = late_reader()
    assert found.isfinite().all() and not torch.allclose(found, right, rtol=0.1)


def test_a_late_reader_is_found(poisoned: None) -> None:
    found, right = late_reader()
    assert found.isnan().all() and right.isfinite().all()


def test_poisoned_memory_begins_as_nan(poisoned: None) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        first = scratch(Slot.ATTENDED, (5,), dtype)
        assert first.isnan().all()
        first.fill_(1)
        assert scratch(Slot.ATTENDED, (5,), dtype).isnan().all() and first.isnan().all()
        kept = recycled("poisoned", (4,), dtype).fill_(1)
        recycled("poisoned", (4,), dtype)
        assert kept.eq(1).all(), "what is for keeps stays"
        del kept
        assert recycled("poisoned", (4,), dtype).isnan().all()


def test_the_environment_switches_it_on() -> None:
    code = (
        "import torch; from megatron_mmbert.kernels.scratch import Slot, scratch; "
        "print(scratch(Slot.LARGE, (64,), torch.float32).isnan().all().item())"
    )
    environment = os.environ | {"MMBERT_POISON_SCRATCH": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
