"""Saving and loading the state of a training run: weights, optimizer, and the clocks in ``checkpoint.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing

from megatron_mmbert.checkpoint.folder import CheckpointMeta, committed_folder, read_meta, write_meta
from megatron_mmbert.config.recipe import ModelConfig
from megatron_mmbert.errors import UserError
from megatron_mmbert.parallel.runtime import barrier, current

# Layer 0 has no attention norm, so layers must be stored one by one; the sharding type allows every other layout.
CONTENT = {"non_homogeneous_layers": True, "distrib_optim_sharding_type": "fully_reshardable"}
_EXTRA_STATE = "_extra_state"
SHAPE_FIELDS = (
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "vocab_size",
    "global_attention_every",
    "window_each_side",
    "norm_eps",
)
"""What weights were trained for. The last three change no tensor's shape: unnoticed, they would change the function."""


def save(path: Path, meta: CheckpointMeta, model: Any, optimizer: Any | None) -> None:
    """Write a checkpoint on all ranks together and commit it by one rename.

    Args:
        model: the bare encoder of this rank (not wrapped for data parallelism).
        optimizer: the Megatron-Core optimizer, or None for weights only.
    """
    state: dict[str, Any] = {"model": _model_state(model)}
    if optimizer is not None:
        state["optimizer"] = optimizer.sharded_state_dict(state["model"], metadata=CONTENT)
    path.parent.mkdir(parents=True, exist_ok=True)
    with committed_folder(path, current().is_main, barrier) as folder:
        dist_checkpointing.save(state, str(folder), content_metadata=CONTENT)
        if current().is_main:
            write_meta(folder, meta.model_copy(update={"has_optimizer": optimizer is not None}))


def load(path: Path, model: Any, optimizer: Any | None) -> None:
    """Load weights, and the optimizer's state where ``optimizer`` is given, saved in any parallel layout."""
    state: dict[str, Any] = {"model": _model_state(model)}
    if optimizer is not None:
        state["optimizer"] = optimizer.sharded_state_dict(state["model"], is_loading=True, metadata=CONTENT)
    with torch.no_grad():
        loaded = dist_checkpointing.load(state, str(path))
        missing, unexpected = model.load_state_dict(loaded["model"], strict=False)
        lost = [name for name in (*missing, *unexpected) if not name.endswith(_EXTRA_STATE)]
        if lost:
            raise UserError(f"{path}: tensor {lost[0]!r} does not fit this model; take another checkpoint")
        if optimizer is not None:
            optimizer.load_state_dict(loaded["optimizer"])


def _model_state(model: Any) -> dict[str, Any]:
    """The encoder's sharded tensors, without the layers' empty "extra state": checkpoints made of plain tensors
    (merged, converted) have none."""
    state = model.sharded_state_dict(metadata=CONTENT)
    return {name: value for name, value in state.items() if not name.endswith(_EXTRA_STATE)}


def check_shape(path: Path, expected: ModelConfig) -> CheckpointMeta:
    """The checkpoint's description, if its encoder has the shape that the recipe asks for.

    Raises:
        UserError: it has another shape; the sentence names the first field that differs.
    """
    meta = read_meta(path)
    for field in SHAPE_FIELDS:
        theirs, ours = getattr(meta.model, field), getattr(expected, field)
        if theirs != ours:
            raise UserError(
                f"{path}: the checkpoint has {field} {theirs} and the recipe {ours}; "
                "name another checkpoint or change the recipe's model section"
            )
    return meta
