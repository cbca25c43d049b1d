"""The process groups: joining and laying them out, this rank's position and device, exchanges between ranks."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from megatron_mmbert.parallel import cpu_mode, environment
from megatron_mmbert.utils.errors import UserError


@dataclass(frozen=True)
class Runtime:
    """This process's rank in every dimension of the layout, and its device."""

    rank: int
    world_size: int
    dp_rank: int
    dp_size: int
    tp_rank: int
    tp_size: int
    pp_rank: int
    pp_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True on the rank that writes logs and files that exist once."""
        return self.rank == 0

    @property
    def is_first_stage(self) -> bool:
        return self.pp_rank == 0

    @property
    def is_last_stage(self) -> bool:
        return self.pp_rank == self.pp_size - 1

    def describe(self) -> str:
        """Return ``4 ranks (tp 2, pp 1, dp 2) on cpu`` for the log."""
        ranks = "1 process" if self.world_size == 1 else f"{self.world_size} ranks"
        return f"{ranks} (tp {self.tp_size}, pp {self.pp_size}, dp {self.dp_size}) on {self.device.type}"


_runtime: Runtime | None = None


def start(
    tensor: int = 1, pipeline: int = 1, seed: int = 1, timeout_minutes: float = 30.0, virtual_stages: int = 1
) -> Runtime:
    """Join the process group that ``torchrun`` describes (or be the only process) and lay out the ranks.

    Args:
        tensor, pipeline: sizes of tensor and pipeline parallelism; data parallelism takes the rest.
        seed: start of the random states that Megatron-Core's layers ask for; nothing of a run depends on them.
        virtual_stages: parts of the model per pipeline rank.

    Raises:
        UserError: the number of processes does not divide by ``tensor * pipeline``; or there is no CUDA device, and
            :func:`megatron_mmbert.parallel.enable_cpu_mode` was not called.
    """
    global _runtime
    environment.set_defaults()
    device_type = cpu_mode.device_type()
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size % (tensor * pipeline):
        raise UserError(
            f"{world_size} processes do not divide by parallel.tensor {tensor} x parallel.pipeline {pipeline}; "
            "change torchrun's --nproc-per-node or the recipe's parallel section"
        )
    join(timeout_minutes)
    from megatron.core import parallel_state as state

    if not state.model_parallel_is_initialized():
        state.initialize_model_parallel(
            tensor,
            pipeline,
            virtual_stages if virtual_stages > 1 else None,
            create_gloo_process_groups=False,
            distributed_timeout_minutes=math.ceil(timeout_minutes),
        )
    _runtime = Runtime(
        rank=dist.get_rank(),
        world_size=world_size,
        dp_rank=state.get_data_parallel_rank(),
        dp_size=state.get_data_parallel_world_size(),
        tp_rank=state.get_tensor_model_parallel_rank(),
        tp_size=state.get_tensor_model_parallel_world_size(),
        pp_rank=state.get_pipeline_model_parallel_rank(),
        pp_size=state.get_pipeline_model_parallel_world_size(),
        device=torch.device("cpu") if device_type == "cpu" else torch.device("cuda", torch.cuda.current_device()),
    )
    _seed(seed)
    return _runtime


def join(timeout_minutes: float = 30.0) -> None:
    """Join the process group alone, before any layout of ranks; nothing where that is done already.

    Args:
        timeout_minutes: the longest wait for another rank, here and in every exchange from now on.

    Raises:
        UserError: there is no CUDA device, and the CPU mode is not enabled.
    """
    if dist.is_initialized():
        return
    environment.set_defaults()
    backend = "gloo" if cpu_mode.device_type() == "cpu" else "nccl"
    timeout = timedelta(minutes=timeout_minutes)
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=timeout)
    else:
        # One process needs no address, so no port can be taken by somebody else.
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)


def current() -> Runtime:
    """Return the runtime of this process; RuntimeError before :func:`start`."""
    if _runtime is None:
        raise RuntimeError("call megatron_mmbert.parallel.start() first")
    return _runtime


def shutdown() -> None:
    """Leave the process group, so that another layout can be started (tests) or the process ends cleanly."""
    global _runtime
    if _runtime is None:
        return
    from megatron.core import parallel_state as state

    state.destroy_model_parallel()
    dist.destroy_process_group()
    _runtime = None


def _seed(seed: int) -> None:
    """Set the random states: Megatron-Core's layers switch between them whether or not anything is drawn.

    Weights, masks and dropout have generators of their own, with keys that no layout changes.
    """
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    torch.manual_seed(seed)
    model_parallel_cuda_manual_seed(seed, force_reset_rng=True)


def sum_over_data_parallel(values: torch.Tensor) -> torch.Tensor:
    """Sum ``values`` in place over the data-parallel ranks."""
    if current().dp_size > 1:
        from megatron.core import parallel_state

        dist.all_reduce(values, group=parallel_state.get_data_parallel_group())
    return values


def from_last_stage(values: torch.Tensor) -> torch.Tensor:
    """Copy the last pipeline stage's ``values`` (only it knows the loss) to every stage, in place."""
    if current().pp_size > 1:
        from megatron.core import parallel_state

        source = parallel_state.get_pipeline_model_parallel_last_rank()
        dist.broadcast(values, source, group=parallel_state.get_pipeline_model_parallel_group())
    return values


def any_rank(flag: bool) -> bool:
    """Return whether ``flag`` is true on at least one rank; the same answer on all, so that they act together."""
    return any_ranks([flag])[0]


def any_ranks(flags: Sequence[bool]) -> list[bool]:
    """Return :func:`any_rank` of each flag, in one message."""
    if current().world_size == 1:
        return list(flags)
    box = torch.tensor([int(flag) for flag in flags], dtype=torch.int32, device=current().device)
    dist.all_reduce(box, dist.ReduceOp.MAX)
    return [bool(value) for value in box.tolist()]


def all_ranks(value: Any) -> list[Any]:
    """Return every rank's ``value``, by rank, on all; slow, for rare events.

    A process that has not called :func:`start` is alone.
    """
    found: list[Any] = [value] * (1 if _runtime is None else _runtime.world_size)
    if len(found) > 1:
        dist.all_gather_object(found, value)
    return found


def number_of_each_rank(value: float) -> list[float]:
    """Return every rank's number, by rank, on all."""
    if current().world_size == 1:
        return [value]
    mine = torch.tensor([value], dtype=torch.float64, device=current().device)
    found = [torch.empty_like(mine) for _ in range(current().world_size)]
    dist.all_gather(found, mine)
    return torch.cat(found).tolist()


def to_next_stage(values: torch.Tensor) -> None:
    """Send ``values`` to the next pipeline rank; after the last comes the first, with its next chunk."""
    from megatron.core import parallel_state

    dist.send(values.contiguous(), parallel_state.get_pipeline_model_parallel_next_rank())


def from_stage_before(buffer: torch.Tensor) -> torch.Tensor:
    """Receive what the pipeline rank before sent with :func:`to_next_stage`, in ``buffer``."""
    from megatron.core import parallel_state

    dist.recv(buffer, parallel_state.get_pipeline_model_parallel_prev_rank())
    return buffer


def broadcast_object(value: Any) -> Any:
    """Return rank 0's ``value`` on every rank; a process that has not called :func:`start` is alone."""
    if _runtime is None or _runtime.world_size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def print_once(text: str) -> None:
    """Print on rank 0."""
    if current().is_main:
        print(text)


def barrier() -> None:
    """Wait for all ranks."""
    if current().world_size > 1:
        dist.barrier()
