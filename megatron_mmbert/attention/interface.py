"""The attention contract: packed sequences, bidirectional, global or within a window; never across sequences.

Every engine takes ``q_THD, k_THD, v_THD`` (T packed tokens, H heads of this rank, D head width), the bounds of the
sequences and the window, and gives ``out_THD``. A :class:`SequenceLayout` has the bounds; it is made once per pack, and
engines keep what they derive from it (masks, index lists) in its ``cache``, so that 22 layers share the work.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

Derived = TypeVar("Derived")


@dataclass
class SequenceLayout:
    """The bounds of the sequences of one pack.

    Attributes:
        cu_seqlens: int32 [S+1], the sequences' bounds, from 0 to T; on the device of q, k, v. A sequence may be empty.
        max_seqlen: length of the longest sequence, or any number above it.
    """

    cu_seqlens: Tensor
    max_seqlen: int
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def lengths(self) -> list[int]:
        """The sequences' lengths in tokens, on the host; empty ones left out."""
        return self.derive("lengths", lambda: [n for n in torch.diff(self.cu_seqlens).tolist() if n])

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """Each sequence's first token and the one after its last, on the host."""
        ends = list(itertools.accumulate(self.lengths))
        return self.derive("bounds", lambda: list(zip([0, *ends[:-1]], ends, strict=True)))

    @property
    def tokens(self) -> int:
        """T, the number of tokens."""
        return self.derive("tokens", lambda: sum(self.lengths))

    def set_tokens(self, tokens: int) -> None:
        """Set T where it is known; counted from the bounds, the host would wait for a GPU to give them."""
        self.cache["tokens"] = tokens

    @property
    def sample_of_token(self) -> Tensor:
        """The index of the sequence that each token belongs to, int64 [T]."""
        return self.derive("sample_of_token", self._sample_of_token)

    def _sample_of_token(self) -> Tensor:
        lengths = torch.diff(self.cu_seqlens)
        samples = torch.arange(len(lengths), device=lengths.device)
        return torch.repeat_interleave(samples, lengths, output_size=self.tokens)

    def derive(self, key: Any, make: Callable[[], Derived]) -> Derived:
        """Return ``make()``, computed at most once for this pack and ``key``."""
        if key not in self.cache:
            self.cache[key] = make()
        return self.cache[key]


def with_empty_sequences(cu_seqlens: Tensor, tokens: int, multiple: int = 64) -> Tensor:
    """Return the bounds of the same sequences and of empty ones after them, their total a multiple of ``multiple``.

    Transformer Engine and cuDNN plan their kernels anew for each number of sequences, in the middle of training.

    Args:
        cu_seqlens: int32 [S+1].
        tokens: T, which the last entry is.
    """
    return F.pad(cu_seqlens, (0, -(len(cu_seqlens) - 1) % multiple), value=tokens)


@dataclass(frozen=True)
class Request:
    """A task for an engine, known before there is a tensor.

    Attributes:
        device: ``cpu`` or ``cuda``.
        window_each_side: None for global attention.
        backward: whether gradients are wanted.
        sample_tokens: a usual length of sequences; engines are timed on it where they are timed.
    """

    device: str
    dtype: torch.dtype
    head_width: int
    window_each_side: int | None
    backward: bool
    sample_tokens: int = 1024


Attend = Callable[[Tensor, Tensor, Tensor, SequenceLayout, int | None], Tensor]
"""``attend(q_THD, k_THD, v_THD, layout, window_each_side) -> out_THD``; window None means the whole sequence."""
AttendFused = Callable[[Tensor, "tuple[Tensor, Tensor] | None", SequenceLayout, "int | None", "Tensor | None"], Tensor]
"""``attend(qkv_TH3D, (cos_T1D, sin_T1D), layout, window_each_side, rows_K) -> out_THD``: rotates queries and keys
itself. With rows, only these tokens' queries attend: ``out_KHD``, in their order; None for all."""


@dataclass(frozen=True)
class Engine:
    """One way to compute attention; calling it is :data:`Attend`.

    Attributes:
        unsupported_reason: why it cannot do a request, in a few words; None if it can.
        install_hint: the command that makes it available, if one does.
        fused: the same from the fused projection, where the engine has it.
        deterministic: whether it gives the same bits each time when PyTorch is asked to.
    """

    name: str
    attend: Attend
    unsupported_reason: Callable[[Request], str | None]
    install_hint: str = ""
    fused: AttendFused | None = None
    deterministic: bool = True

    def __call__(
        self, q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, layout: SequenceLayout, window_each_side: int | None
    ) -> Tensor:
        return self.attend(q_THD, k_THD, v_THD, layout, window_each_side)


def flash_unsupported_reason(request: Request) -> str | None:
    """Return why no engine of the FlashAttention family can do a request; None if they can."""
    if request.device != "cuda":
        return "runs on CUDA devices only"
    if request.dtype not in (torch.bfloat16, torch.float16):
        return f"takes bf16 or fp16, not {str(request.dtype).removeprefix('torch.')}"
    if request.head_width % 8 or request.head_width > 256:
        return f"takes head widths that are multiples of 8 up to 256, not {request.head_width}"
    return None


def window_pair(window_each_side: int | None) -> tuple[int, int]:
    """Return the (left, right) form of a window, -1 for none."""
    return (-1, -1) if window_each_side is None else (window_each_side, window_each_side)
