"""StableAdamW: AdamW whose step shrinks for a tensor whose gradient outgrows its second moment.

The arithmetic is that of the trainer mmBERT used (ModernBERT ``src/optimizer.py``), which puts the update clipping of
Wortsman et al. 2023 (arXiv 2304.13013, section 3) and Adafactor in the place of gradient clipping. Per tensor p with
gradient g, at step t counted from 1::

    b̂      = b·(1 − b^(t−1)) / (1 − b^t)          for b = b1 and b = b2: the debiased betas
    m      ← b̂1·m + (1 − b̂1)·g
    v      ← b̂2·v + (1 − b̂2)·g²
    r      = sqrt(mean(g² / max(v, eps²)))         over the WHOLE logical tensor
    lr_p   = lr / max(1, r)
    p      ← p·(1 − wd·lr_p/lr_peak)               fully decoupled decay: wd is not multiplied by the peak rate
    p      ← p − lr_p·m / (sqrt(v) + eps)

"Logical" matters: under tensor parallelism or a sharded optimizer one rank holds a piece of p, and the RMS of a piece
is another optimizer. Through ``rms_reducer`` the ranks add up their pieces.

Shapes: P is the number of tensors that have a gradient on this rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from megatron_mmbert import compat

_foreach = compat.foreach()

RmsReducer = Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, Tensor]]
"""(squares_P, parameters) -> (squares_P, count_P), both float64 and over every shard of each logical tensor.

It is called exactly once per step, also on a rank whose P is 0, so it may hold a collective. ``parameters`` are the
tensors the optimizer updates (masters or shards), in the order of ``squares_P``; ranks may hold different ones.
"""

# Temporaries live for one bucket at a time: few launches on a GPU, within the outer cache on a CPU. An embedding table
# is many buckets, else its two temporaries would be the largest tensors of a whole step.
SCRATCH_ELEMENTS = {"cpu": 2**19, "cuda": 2**26}


class _Work(NamedTuple):
    """The part of one parameter group that has gradients."""

    group: dict[str, Any]
    params: list[Tensor]


def debiased_beta(beta: float, step: int) -> float:
    """Return the beta that folds Adam's bias correction into the moving average; 0 at step 1."""
    return beta * (1.0 - beta ** (step - 1)) / (1.0 - beta**step)


def local_rms_reducer(squares_P: Tensor, params: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Reduce in one process that holds every tensor whole."""
    counts = [param.numel() for param in params]
    return squares_P, torch.tensor(counts, dtype=torch.float64).to(squares_P.device, non_blocking=True)


class _Bucket(NamedTuple):
    """Neighbours among the parameters, all of their elements; or a part of one, flattened."""

    params: slice
    part: slice | None = None

    def of(self, tensors: list[Tensor]) -> list[Tensor]:
        """Return views of ``tensors``, one for each parameter of the bucket."""
        return tensors if self.part is None else [tensor.view(-1)[self.part] for tensor in tensors]


def _buckets(params: list[Tensor]) -> Iterator[_Bucket]:
    """Yield all elements of ``params`` in order, each bucket within the scratch limit of their device."""
    start, elements = 0, 0
    for index, param in enumerate(params):
        limit = SCRATCH_ELEMENTS[param.device.type]
        if index > start and elements + param.numel() > limit:
            yield _Bucket(slice(start, index))
            start, elements = index, 0
        elements += param.numel()
        if elements > limit:
            parts = range(0, elements, limit)
            yield from (_Bucket(slice(index, index + 1), slice(part, part + limit)) for part in parts)
            start, elements = index + 1, 0
    if start < len(params):
        yield _Bucket(slice(start, len(params)))


class StableAdamW(torch.optim.AdamW):
    """StableAdamW for parameters (or master weights, or flat shards of them) in float32 or float64.

    It derives from AdamW for one reason: Megatron-Core's distributed optimizer accepts nothing else. Like the fused
    Adam that Megatron expects, it counts ``step`` in the parameter GROUP and keeps ``exp_avg`` and ``exp_avg_sq`` per
    parameter, made at the first step. A step never waits for the device.

    Group keys: ``lr``, ``max_lr`` (lr_peak above), ``betas``, ``eps``, ``weight_decay``, ``step``.

    Args:
        lr: the learning rate of the next step; the training loop sets it before each one.
        max_lr: the peak of the schedule, by which decay is made independent of the peak rate; ``lr`` when None.
        weight_decay: the fully decoupled decay per step at the peak rate (recipe: 8e-5, not AdamW's 0.1).
        rms_reducer: adds up (sum, count) over the shards of each tensor; may also be set as an attribute later.

    Raises:
        ValueError: a value out of range here, or a half-precision parameter at the first step.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        max_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        rms_reducer: RmsReducer | None = None,
    ) -> None:
        peak = lr if max_lr is None else max_lr
        _check_range("lr", lr, lr >= 0, "0 or more")
        _check_range("max_lr", peak, peak > 0 or weight_decay == 0, "more than 0 where weight_decay is not 0")
        _check_range("betas", betas, all(0 <= beta < 1 for beta in betas), "two numbers in [0, 1)")
        _check_range("eps", eps, eps > 0, "more than 0, e.g. 1e-8")
        _check_range("weight_decay", weight_decay, 0 <= weight_decay < 1, "in [0, 1), e.g. 8e-5")
        defaults = dict(lr=lr, max_lr=peak, betas=tuple(betas), eps=eps, weight_decay=weight_decay, step=0)
        # Not AdamW's own constructor: its options (amsgrad, fused, foreach) have no meaning here.
        torch.optim.Optimizer.__init__(self, params, defaults)
        self.rms_reducer: RmsReducer = rms_reducer or local_rms_reducer
        self.last_rms_P: Tensor | None = None  # r of the last step, float64 on the device, for logging

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore state and groups as they are: AdamW's own would look for a ``step`` per parameter."""
        torch.optim.Optimizer.__setstate__(self, state)

    def initialize_state(self, param: Tensor) -> None:
        """Make zero moments for ``param`` unless it has them."""
        if self.state[param]:
            return
        if param.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"parameter dtype {param.dtype}: StableAdamW updates float32 master weights; wrap it in "
                "Megatron-Core's Float16OptimizerWithFloat16Params or DistributedOptimizer"
            )
        for key in ("exp_avg", "exp_avg_sq"):
            self.state[param][key] = torch.zeros_like(param, memory_format=torch.preserve_format, requires_grad=False)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update once every parameter that has a gradient; returns what ``closure`` returned, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        works, squares = [], []
        for group in self.param_groups:
            work = _Work(group, [param for param in group["params"] if param.grad is not None])
            works.append(work)
            group["step"] += 1
            squares.extend(self._update_moments(work))
        params = [param for work in works for param in work.params]
        scales_P = self._learning_rate_scales(squares, params)
        start = 0
        for work in works:
            self._apply(work, scales_P[start : start + len(work.params)])
            start += len(work.params)
        return loss

    def _moments(self, params: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the first and second moments of ``params``."""
        for param in params:
            self.initialize_state(param)
        return [self.state[p]["exp_avg"] for p in params], [self.state[p]["exp_avg_sq"] for p in params]

    def _update_moments(self, work: _Work) -> list[Tensor]:
        """Move both moments; returns sum(g² / max(v, eps²)) of each tensor, scalars on the device."""
        (beta1, beta2), eps, step = work.group["betas"], work.group["eps"], work.group["step"]
        beta1, beta2 = debiased_beta(beta1, step), debiased_beta(beta2, step)
        squares: list[Tensor] = []
        for bucket in _buckets(work.params):
            params = work.params[bucket.params]
            firsts, seconds = map(bucket.of, self._moments(params))
            grads = bucket.of([param.grad.contiguous() for param in params if param.grad is not None])
            grads = [grad.to(first.dtype) for grad, first in zip(grads, firsts, strict=True)]
            _foreach.lerp_(firsts, grads, 1.0 - beta1)
            _foreach.mul_(seconds, beta2)
            _foreach.addcmul_(seconds, grads, grads, 1.0 - beta2)
            ratios = _foreach.mul(grads, grads)
            _foreach.div_(ratios, _foreach.clamp_min(seconds, eps**2))
            sums = [ratio.sum() for ratio in ratios]
            if bucket.part is not None and bucket.part.start > 0:
                squares[-1] += sums[0]
            else:
                squares.extend(sums)
        return squares

    def _learning_rate_scales(self, squares: list[Tensor], params: list[Tensor]) -> Tensor:
        """Return 1 / max(1, r) per tensor, float64 [P], over all shards."""
        squares_P = torch.stack(squares).double() if squares else torch.zeros(0, dtype=torch.float64)
        squares_P, count_P = self.rms_reducer(squares_P, params)
        self.last_rms_P = (squares_P / count_P.clamp_min(1)).sqrt()
        return 1.0 / self.last_rms_P.clamp_min(1.0)

    def _apply(self, work: _Work, scales_P: Tensor) -> None:
        """Decay, then step; every factor that depends on r stays on the device."""
        group = work.group
        decay = group["weight_decay"] / group["max_lr"] if group["weight_decay"] else 0.0
        for bucket in _buckets(work.params):
            params = work.params[bucket.params]
            firsts, seconds = map(bucket.of, self._moments(params))
            params = bucket.of(params)
            lr_P = (scales_P[bucket.params] * group["lr"]).to(params[0].dtype)
            updates = _foreach.sqrt(seconds)
            _foreach.add_(updates, group["eps"])
            updates = _foreach.div(firsts, updates)
            _foreach.mul_(updates, list(lr_P.unbind()))
            if decay:
                _foreach.mul_(params, list((1.0 - decay * lr_P).unbind()))
            _foreach.sub_(params, updates)


def _check_range(field: str, value: object, in_range: bool, wanted: str) -> None:
    if not in_range:
        raise ValueError(f"StableAdamW {field}={value}: must be {wanted}")
