"""A GPU without one: tensors with shapes and no values, whose operations are counted as the kernels that they start.

Everything is a fake tensor (``torch._subclasses.FakeTensorMode``) that says it lies on a CUDA device, so that the code
takes its branches for GPUs. The recorder sees each operation: how many bytes its operands and results have, which
storage it takes and gives back, and whether the host would wait for its result. What runs compiled on a GPU is one
kernel each way. This counts work and predicts no time.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# They move no byte: views, and memory handed out uncleared.
_FREE = set(
    "device view _unsafe_view t transpose expand detach alias slice select unsqueeze squeeze split split_with_sizes "
    "as_strided permute unbind empty empty_like new_empty empty_strided new_empty_strided lift_fresh is_pinned "
    "_reshape_alias chunk reshape set_ resize_ diagonal unfold".split()
)
# The host waits for their result, if only to know a shape.
_WAITS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2", "unique_dim", "item"}
_OVERWRITE = {"zero_", "fill_", "copy_", "bernoulli_", "_foreach_zero_", "_foreach_copy_"}  # their target is not read
_GATHER = {"embedding", "index", "gather", "index_select"}  # read as much as they give
_SCATTER = {"index_put_", "_index_put_impl_", "scatter_", "index_add_"}  # read source and target, write the target
_PRODUCTS = {"mm", "addmm", "addmm_", "mv", "bmm"}

# What a function's backward kernel reads beside the gradient, by its arguments' numbers.
_KEPT_FOR_BACKWARD = {"rotate": (1, 2), "rotate_packed": (1, 2), "_composed": (0,), "_without": (1,)}


@dataclass
class Work:
    """Kernels, the bytes of their operands and results, and the FLOPs of matrix products."""

    kernels: int = 0
    bytes: int = 0
    flops: float = 0.0


class Recorder(TorchDispatchMode):
    """Counts the operations on fake tensors.

    Attributes:
        stage: the name under which the next operations are counted.
        work: by stage and operation.
        waits: (stage, operation) of each time that the host would wait for the GPU.
        live, peak: bytes of all tensors that exist, and the most so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stage = "build"
        self.work: defaultdict[tuple[str, str], Work] = defaultdict(Work)
        self.waits: list[tuple[str, str]] = []
        self.live = self.peak = 0
        self._storages: dict[int, Any] = {}
        self._within_kernel = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._within_kernel:
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        inputs = _fakes((args, kwargs))
        if name in _WAITS and inputs:
            self.waits.append((self.stage, name))
            if name in ("_local_scalar_dense", "item"):
                return 1
        if name == "bernoulli_":  # its generator is none of a fake tensor's
            self._count(name, size(args[0]))
            return args[0]
        result = func(*args, **kwargs)
        outputs = _fakes(result)
        self._track(outputs)
        if (inputs or outputs) and name not in _FREE:
            self._count(name, _bytes(func, name, args, inputs, outputs), _flops(name, inputs))
        return result

    def reset(self) -> None:
        """Begin anew, as if nothing was there."""
        self.stage = "build"
        self.work.clear()
        self.waits.clear()
        self._storages.clear()
        self.live = self.peak = 0

    def as_one_kernel(self, name: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Call ``function``, whose operations are those of a single kernel: temporaries are in registers."""
        inputs = _fakes(arguments)
        versions = [each._version for each in inputs]
        self._within_kernel = True
        try:
            result = function(*arguments)
        finally:
            self._within_kernel = False
        outputs = _fakes(result)
        self._track(outputs)
        written = [each for each, version in zip(inputs, versions, strict=True) if each._version != version]
        self._count(name, sum(map(size, [*inputs, *outputs, *written])))
        return result

    def totals(self, stage: str) -> Work:
        """Return the work of a stage."""
        found = [work for (where, _), work in self.work.items() if where == stage]
        return Work(*(sum(getattr(each, name) for each in found) for name in ("kernels", "bytes", "flops")))

    def table(self, stage: str) -> dict[str, list[float]]:
        """Return (kernels, GB) of a stage's operations by name, most bytes first."""
        found = {name: work for (where, name), work in self.work.items() if where == stage}
        ordered = sorted(found.items(), key=lambda item: -item[1].bytes)
        return {name: [work.kernels, round(work.bytes / 1e9, 2)] for name, work in ordered}

    def _count(self, name: str, bytes_: int, flops: float = 0.0) -> None:
        work = self.work[self.stage, name]
        work.kernels += 1
        work.bytes += bytes_
        work.flops += flops

    def _track(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key, taken = storage._cdata, storage.nbytes()
            if key in self._storages:
                continue
            self.live += taken
            self.peak = max(self.peak, self.live)
            self._storages[key] = weakref.ref(storage, lambda _, key=key, taken=taken: self._freed(key, taken))

    def _freed(self, key: int, taken: int) -> None:
        self.live -= taken
        del self._storages[key]


def size(tensor: Tensor) -> int:
    """Return the tensor's bytes."""
    return tensor.numel() * tensor.element_size()


def _fakes(tree: Any) -> list[Tensor]:
    return [each for each in tree_leaves(tree) if isinstance(each, FakeTensor)]


def _bytes(func: Any, name: str, args: Any, inputs: list[Tensor], outputs: list[Tensor]) -> int:
    """Return the bytes that a kernel reads and writes, each operand once."""
    if name in _GATHER:
        return 2 * sum(map(size, outputs))
    if name in _SCATTER:
        return 3 * size(inputs[-1])
    known = {id(each) for each in inputs}
    new = sum(size(each) for each in outputs if id(each) not in known)
    targets = [
        value
        for argument, value in zip(func._schema.arguments, args, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    written = sum(map(size, _fakes(targets)))
    read = sum(map(size, inputs)) - (written if name in _OVERWRITE else 0)
    return read + written + new


def _flops(name: str, inputs: list[Tensor]) -> float:
    if name not in _PRODUCTS:
        return 0.0
    left, right = inputs[-2:] if name.startswith("addmm") else inputs[:2]
    columns = right.shape[-1] if right.ndim > 1 else 1
    return 2.0 * left.numel() * columns


class _OneKernelEachWay(torch.autograd.Function):
    """A compiled function of which only the first argument has a gradient."""

    @staticmethod
    def forward(ctx: Any, recorder: Recorder, function: Any, *arguments: Any) -> Any:
        name = function.__name__
        kept = [arguments[number] for number in _KEPT_FOR_BACKWARD[name]]
        ctx.save_for_backward(*kept)
        ctx.recorder, ctx.name, ctx.shape, ctx.others = recorder, name, arguments[0].shape, len(arguments) - 1
        return recorder.as_one_kernel(name, function, arguments)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # type: ignore[override]
        def gradient(*read: Tensor) -> Tensor:
            return read[0].new_empty(ctx.shape)

        dx = ctx.recorder.as_one_kernel(f"{ctx.name} backward", gradient, (*grads, *ctx.saved_tensors))
        return (None, None, dx, *[None] * ctx.others)


def compiled_by(recorder: Recorder) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what takes the place of torch.compile."""

    def compile_(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if torch.is_grad_enabled() and arguments[0].requires_grad:
                return _OneKernelEachWay.apply(recorder, function, *arguments)
            return recorder.as_one_kernel(function.__name__, function, arguments)

        return call

    return compile_


@contextmanager
def fake_cuda(recorder: Recorder) -> Iterator[FakeTensorMode]:
    """Have all tensors made within the block be fake ones on a GPU, and ``recorder`` see what is done to them.

    It changes classes of torch for good: for a process of its own.
    """
    FakeTensor.is_cuda = property(lambda self: True)  # type: ignore[assignment, method-assign]
    FakeTensor.is_cpu = property(lambda self: False)  # type: ignore[assignment, method-assign]
    for name in ("cpu", "tolist", "numpy"):
        setattr(FakeTensor, name, _waiting(recorder, name))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, recorder:
        yield mode


def _waiting(recorder: Recorder, name: str) -> Callable[[Tensor], Any]:
    """Return a method that brings values to the host: the wait is noted, and they are ones."""

    def call(self: Tensor) -> Any:
        recorder.waits.append((recorder.stage, name))
        return {"cpu": self, "tolist": [1.0] * self.numel(), "numpy": np.ones(tuple(self.shape))}[name]

    return call
