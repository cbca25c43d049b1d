"""Megatron-Core's process groups of this rank, by role. Only this package asks Megatron-Core for them."""

from __future__ import annotations

import torch.distributed as dist
from megatron.core import parallel_state


def tensor_parallel() -> dist.ProcessGroup:
    """Return the ranks that share each layer with this one."""
    return parallel_state.get_tensor_model_parallel_group()


def model_parallel() -> dist.ProcessGroup:
    """Return the ranks of one copy of the model, over tensor and pipeline parallelism."""
    return parallel_state.get_model_parallel_group()


def data_and_context_parallel() -> dist.ProcessGroup:
    """Return the ranks that hold the same weights, over which the distributed optimizer shards its state."""
    return parallel_state.get_data_parallel_group(with_context_parallel=True)


def optimizer_instance() -> dist.ProcessGroup:
    """Return the ranks of one instance of the distributed optimizer."""
    return parallel_state.get_intra_distributed_optimizer_instance_group()
