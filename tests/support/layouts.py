"""The parallel layouts that are compared with one process, and what a run of one gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

DROPOUT = 0.1


@dataclass(frozen=True)
class Layout:
    """One way to lay the same training over ranks.

    Attributes:
        tp, pp, dp: tensor, pipeline and data parallelism.
        vp: model chunks per pipeline rank.
        sp: sequence parallelism.
        zero: the distributed optimizer.
        overlap: gradient reduction during backward in small buckets, with ``zero`` parameter gathering too.
        packs: the most packs of one micro batch; where they do not share out evenly, ranks get empty packs.
        left_out: a reduction to leave out, for the negative controls (see ``train_layouts.py``).
        resume_at: save and load into new objects after this many steps; 0 for never.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    vp: int = 1
    sp: bool = False
    zero: bool = False
    overlap: bool = False
    recompute: str = "none"
    dtype: str = "fp32"
    packs: int = 1
    dropout: float = DROPOUT
    split: tuple[int, ...] = ()
    left_out: str = ""
    resume_at: int = 0

    @property
    def ranks(self) -> int:
        return self.tp * self.pp * self.dp

    @property
    def name(self) -> str:
        """``tp2 pp2 dp2 sp zero``."""
        parts = [f"tp{self.tp}", f"pp{self.pp}", f"dp{self.dp}"]
        parts += [f"vp{self.vp}"] if self.vp > 1 else []
        parts += [word for word in ("sp", "zero", "overlap") if getattr(self, word)]
        parts += [f"recompute-{self.recompute}"] if self.recompute != "none" else []
        parts += [f"{self.packs}-packs-a-micro-batch"] if self.packs > 1 else []
        parts += ["split-" + "-".join(map(str, self.split))] if self.split else []
        parts += [] if self.dropout else ["no-dropout"]
        parts += [self.dtype] if self.dtype != "fp32" else []
        parts += [f"without-{self.left_out}"] if self.left_out else []
        parts += [f"resumed-at-{self.resume_at}"] if self.resume_at else []
        return " ".join(parts)

    @property
    def reference(self) -> Layout:
        """One process that trains the same."""
        return Layout(dtype=self.dtype, dropout=self.dropout)

    def overrides(self) -> list[str]:
        """The recipe values that make it."""
        values: dict[str, Any] = {
            "model.attention_output_dropout": self.dropout,
            "precision.dtype": self.dtype,
            "parallel.tensor": self.tp,
            "parallel.pipeline": self.pp,
            "parallel.virtual_stages": self.vp,
            "parallel.sequence": self.sp,
            "parallel.distributed_optimizer": self.zero,
            "parallel.overlap": self.overlap,
            "parallel.recompute": self.recompute,
            "parallel.bucket_elements": 20_000,
        }
        if self.split:
            values["parallel.layers_per_stage"] = list(self.split)
        return [f"{key}={str(value).lower()}" for key, value in values.items()]


@dataclass
class Result:
    """What a run gave, put together from all ranks.

    Attributes:
        losses, grad_norms: one value a step.
        rms: the largest RMS of StableAdamW over the tensors, one value a step; where it exceeds 1, it steers the step.
        parameters: whole tensors by logical name.
        digests: of every rank's parameters and moments; the same run has the same.
        copies_agree: whether data-parallel replicas and the tied table's two copies hold the same bits.
    """

    losses: list[float]
    grad_norms: list[float]
    rms: list[float]
    parameters: dict[str, torch.Tensor] = field(repr=False)
    digests: list[str] = field(repr=False)
    copies_agree: bool = True
    seconds: float = 0.0


@dataclass(frozen=True)
class Distance:
    """How far a run is from its reference.

    Attributes:
        loss, grad_norm: largest relative difference over the steps.
        parameters: largest difference of any element at the end.
    """

    loss: float
    grad_norm: float
    parameters: float


def distance(found: Result, expected: Result) -> Distance:
    """Of two runs of the same training; every tensor is compared."""
    assert found.parameters.keys() == expected.parameters.keys()
    assert len(found.losses) == len(expected.losses)
    return Distance(
        _relative(found.losses, expected.losses),
        _relative(found.grad_norms, expected.grad_norms),
        max((found.parameters[n] - p).abs().max().item() for n, p in expected.parameters.items()),
    )


def _relative(found: list[float], expected: list[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))


FP32 = Distance(loss=1e-5, grad_norm=1e-5, parameters=1e-5)
"""Sums in another order; measured runs stay a factor of ten or more below."""
BF16 = Distance(loss=1e-3, grad_norm=1e-2, parameters=2**-6)
"""A product cut over tensor-parallel ranks is rounded to 8 bits before it is summed, so such a run differs from one
process as the run in bf16 differs from the one in fp32 (a row of its own says by how much). A weight near 1 moves in
steps of 2**-7: two of them."""
CONTROL_FACTOR = 10
"""A negative control exceeds some bound at least so many times."""

WHOLE = Layout(tp=2, pp=2, dp=2, sp=True, zero=True, overlap=True)
FULL = [
    Layout(tp=2),
    Layout(tp=4),
    Layout(tp=2, sp=True),
    Layout(tp=4, sp=True),
    Layout(pp=2),
    Layout(pp=4),
    Layout(pp=4, split=(3, 1, 1, 2)),
    Layout(pp=2, vp=2),
    Layout(pp=4, vp=2),
    Layout(dp=2),
    Layout(dp=4),
    Layout(dp=2, overlap=True),
    Layout(dp=4, zero=True),
    Layout(dp=2, zero=True, overlap=True),
    Layout(tp=2, pp=2),
    Layout(tp=2, dp=2, sp=True, zero=True),
    Layout(pp=2, dp=2, zero=True),
    Layout(pp=2, vp=2, dp=2, zero=True, overlap=True),
    Layout(tp=2, sp=True, recompute="light"),
    Layout(tp=2, sp=True, recompute="selective"),
    Layout(tp=2, sp=True, recompute="full"),
    Layout(pp=2, vp=2, recompute="full"),
    Layout(tp=4, pp=2, sp=True),
    WHOLE,
    Layout(tp=2, pp=2, vp=2, dp=2, sp=True, zero=True, overlap=True, recompute="full"),
    Layout(packs=2),
    Layout(packs=3),
    Layout(dp=2, packs=2, zero=True),
    Layout(dp=3),
    Layout(dp=3, packs=2, zero=True, overlap=True),
    Layout(pp=2, dp=3, packs=2),
    Layout(tp=2, pp=2, vp=2, dp=2, packs=2, sp=True, zero=True),
    Layout(dp=2, zero=True, dtype="bf16"),
    Layout(pp=2, vp=2, dtype="bf16"),
    Layout(tp=2, sp=True, dtype="bf16"),
    Layout(tp=2, pp=2, dp=2, sp=True, zero=True, overlap=True, dtype="bf16"),
]
CI = [
    Layout(pp=4),
    Layout(dp=2, overlap=True),
    Layout(tp=2, recompute="selective"),
    Layout(tp=2, dp=2, sp=True, zero=True, overlap=True),
    Layout(tp=2, pp=2, sp=True, recompute="light"),
    Layout(pp=2, vp=2, dp=2, zero=True),
    Layout(tp=2, pp=2, vp=2, sp=True, recompute="full"),
    Layout(dp=3, packs=2),
    Layout(tp=2, sp=True, dtype="bf16"),
]
CONTROLS = [
    Layout(pp=2, left_out="tied-embedding-reduction"),
    Layout(tp=2, sp=True, left_out="norm-gradient-reduction"),
    Layout(tp=2, left_out="global-rms"),
    Layout(dp=4, zero=True, left_out="global-rms"),
    Layout(tp=2, sp=True, left_out="common-dropout"),
]
REPEATED = {"full": [WHOLE, Layout(pp=2, vp=2)], "ci": [Layout(tp=2, dp=2, sp=True, zero=True, overlap=True)]}
"""Run twice: bit for bit the same."""
RESUMED = {
    "full": [
        Layout(),
        Layout(dp=2, zero=True, overlap=True),
        Layout(tp=2, pp=2, vp=2, sp=True, zero=True),
        Layout(dp=2, zero=True, dtype="bf16"),
    ],
    "ci": [Layout(tp=2, dp=2, sp=True, zero=True, overlap=True)],
}
"""Saved, loaded into new objects and gone on: bit for bit the uninterrupted run."""
