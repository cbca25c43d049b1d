"""Memory that is used again: never under the feet of one who still holds it."""

from __future__ import annotations

import threading

import torch

from megatron_mmbert.kernels.scratch import Slot, recycled, scratch


def test_a_slot_is_one_place_that_grows() -> None:
    small = scratch(Slot.ATTENDED, (2, 3), torch.float32)
    assert small.shape == (2, 3) and small.is_contiguous()
    large = scratch(Slot.ATTENDED, (2**20,), torch.float64)
    again = scratch(Slot.ATTENDED, (5,), torch.bfloat16)
    assert again.data_ptr() == large.data_ptr() and again.dtype == torch.bfloat16
    assert scratch(Slot.TURNED, (5,), torch.float32).data_ptr() != large.data_ptr()


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
