"""The private names of other people's code that this project uses: one table, the only place that spells them.

PyTorch, Megatron-Core and Python's library promise nothing for a name that begins with an underscore, or that their
documentation leaves out, so a new version may take it away without a word. Then ``tests/test_compat.py`` fails with
the row: the name, its owner, and what we use it for. Each module asks this table (``compat.SOFTMAX_BACKWARD.get()``)
instead of writing the name; the owner is imported when a row is first asked for, so importing this file costs nothing.
"""

from __future__ import annotations

import inspect
import operator
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace
from typing import Any


@dataclass(frozen=True)
class PrivateName:
    """One name that its owner may drop.

    Attributes:
        owner: ``module``, or ``module:Class`` where the name is an attribute of something in a module.
        name: the attribute of the owner.
        use: what we use it for, and in which file.
        of_instance: an attribute that the class gives each instance in ``__init__``.
    """

    owner: str
    name: str
    use: str
    of_instance: bool = False

    def __str__(self) -> str:
        return f"{self.owner.replace(':', '.')}.{self.name}, used for {self.use}"

    def get(self) -> Any:
        """Return the object of this name; AttributeError or ImportError where it is gone."""
        return getattr(self._owner(), self.name)

    def of(self, instance: object) -> Any:
        """Return the attribute of this name of ``instance``, an object of the owner."""
        return getattr(instance, self.name)

    def replace(self, value: object) -> None:
        """Put ``value`` in the place of what the owner has under this name; AttributeError where it has nothing."""
        self.get()
        setattr(self._owner(), self.name, value)

    def exists(self) -> bool:
        """Return whether the installed version has the name."""
        try:
            owner = self._owner()
        except (ImportError, AttributeError):
            return False
        if self.of_instance:
            return self.name in inspect.unwrap(owner.__init__).__code__.co_names  # the CPU mode wraps it
        return hasattr(owner, self.name)

    def _owner(self) -> Any:
        module, _, path = self.owner.partition(":")
        return operator.attrgetter(path)(import_module(module)) if path else import_module(module)


# --- torch: arithmetic

FLASH_CPU = PrivateName(
    "torch:ops.aten", "_scaled_dot_product_flash_attention_for_cpu", "global layers on a CPU (attention/engines/cpu.py)"
)
FLASH_CPU_BACKWARD = PrivateName(
    "torch:ops.aten",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
    "the gradient of global layers on a CPU (attention/engines/cpu.py)",
)
SOFTMAX_BACKWARD = PrivateName(
    "torch", "_softmax_backward_data", "the gradient of local layers' softmax, in place (attention/engines/cpu.py)"
)
FOREACH = tuple(
    PrivateName("torch", f"_foreach_{operation}", "updates of many tensors at once (optim/stable_adamw.py)")
    for operation in ("lerp_", "mul", "mul_", "addcmul_", "div", "div_", "clamp_min", "sqrt", "add_", "sub_")
)


def foreach() -> SimpleNamespace:
    """Return torch's operations on lists of tensors by their names without ``_foreach_``."""
    return SimpleNamespace(**{row.name.removeprefix("_foreach_"): row.get() for row in FOREACH})


# --- torch: compilation

MAYBE_MARK_DYNAMIC = PrivateName(
    "torch._dynamo", "maybe_mark_dynamic", "one compiled variant for all numbers of tokens (kernels/compiled.py)"
)

# --- torch: memory, devices, checkpoints

STORAGE_USE_COUNT = PrivateName(
    "torch._C", "_storage_Use_Count", "how many tensors are left on recycled memory (kernels/scratch.py)"
)
STORAGE_POINTER = PrivateName(
    "torch:UntypedStorage", "_cdata", "the argument of _storage_Use_Count (kernels/scratch.py)"
)
DEVICE_CONSTRUCTORS = PrivateName(
    "torch.utils._device",
    "_device_constructors",
    "the list of tensor constructors, to be made before they are replaced (parallel/cpu_mode.py)",
)
STORAGE_INFO = PrivateName(
    "torch.distributed.checkpoint.filesystem",
    "_StorageInfo",
    "where a tensor lies in a checkpoint's file, as the table of contents has it (checkpoint/shard_writer.py)",
)

# --- Megatron-Core: checkpoints

SAVE_PREPROCESS = PrivateName(
    "megatron.core.dist_checkpointing.state_dict_utils",
    "save_preprocess",
    "splitting a state into tensors and the rest (checkpoint/save_plan.py)",
)
REPLACE_KEYS = PrivateName(
    "megatron.core.dist_checkpointing.strategies.torch",
    "_replace_state_dict_keys_with_sharded_keys",
    "the tensors of a state by their logical names (checkpoint/save_plan.py)",
)
TO_TORCH_STATE = PrivateName(
    "megatron.core.dist_checkpointing.strategies.torch",
    "mcore_to_pyt_state_dict",
    "PyTorch's sharded tensors for Megatron-Core's (checkpoint/save_plan.py)",
)
SAVE_PLANNER = PrivateName(
    "megatron.core.dist_checkpointing.strategies.torch",
    "MCoreSavePlanner",
    "planning which rank writes what (checkpoint/save_plan.py)",
)
SAVE_ASYNC_PLAN = PrivateName(
    "megatron.core.dist_checkpointing.strategies.state_dict_saver",
    "save_state_dict_async_plan",
    "planning a save, and keeping the plan for the next ones (checkpoint/save_plan.py)",
)
ASYNC_WRITER = PrivateName(
    "megatron.core.dist_checkpointing.strategies.filesystem_async",
    "FileSystemWriterAsync",
    "the base of the writer that lists in place of writing (checkpoint/save_plan.py)",
)

# --- Megatron-Core: the distributed optimizer

_DISTRIBUTED_OPTIMIZER = "megatron.core.optimizer.distrib_optimizer:DistributedOptimizer"
PARAMETER_BUFFERS = PrivateName(
    _DISTRIBUTED_OPTIMIZER,
    "model_param_gbuf_map",
    "which parameters this rank holds a part of (parallel/optimizer_shards.py)",
    of_instance=True,
)
PARAMETER_GROUP_INDEX = PrivateName(
    _DISTRIBUTED_OPTIMIZER,
    "model_param_group_index_map",
    "the group and index of a parameter in the inner optimizer (parallel/optimizer_shards.py)",
    of_instance=True,
)
PARAMETER_RANGE = PrivateName(
    _DISTRIBUTED_OPTIMIZER,
    "_get_model_param_range_map",
    "which elements of a parameter this rank updates (parallel/optimizer_shards.py)",
)

# --- Megatron-Core: names that the CPU mode replaces

GET_RNG_STATE = PrivateName(
    "megatron.core.tensor_parallel.random", "_get_cuda_rng_state", "the CPU's random state (parallel/cpu_mode.py)"
)
SET_RNG_STATE = PrivateName(
    "megatron.core.tensor_parallel.random", "_set_cuda_rng_state", "the CPU's random state (parallel/cpu_mode.py)"
)
RECOMPUTE_INIT = PrivateName(
    "megatron.core.tensor_parallel.random:CheckpointWithoutOutput",
    "__init__",
    "recomputation without Transformer Engine (parallel/cpu_mode.py)",
)
HALF_OPTIMIZER_INIT = PrivateName(
    "megatron.core.optimizer.optimizer:Float16OptimizerWithFloat16Params",
    "__init__",
    "fp32 masters of bf16 weights on a CPU (parallel/cpu_mode.py)",
)
DISTRIBUTED_OPTIMIZER_INIT = PrivateName(
    _DISTRIBUTED_OPTIMIZER, "__init__", "the distributed optimizer on a CPU (parallel/cpu_mode.py)"
)
CLIP_BY_NORM = tuple(
    PrivateName(f"megatron.core.optimizer.{module}", "clip_grad_by_total_norm_fp32", "clipping (parallel/cpu_mode.py)")
    for module in ("clip_grads", "optimizer")
)
PARSER_ACTIONS = PrivateName(
    "argparse:_ActionsContainer",
    "_actions",
    "completing paths for arguments that are paths (commands/run/completion.py)",
    of_instance=True,
)


def table() -> list[PrivateName]:
    """Return every row of this file."""
    rows: list[PrivateName] = []
    for value in globals().values():
        if isinstance(value, PrivateName):
            rows.append(value)
        elif isinstance(value, tuple):
            rows.extend(row for row in value if isinstance(row, PrivateName))
    return rows
