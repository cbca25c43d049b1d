"""Saving and loading the state of a training run: weights, optimizer, and the counters in ``checkpoint.json``."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory
from torch import Tensor

from megatron_mmbert.checkpoint.async_saver import AsyncSaver
from megatron_mmbert.checkpoint.identity import FLAG
from megatron_mmbert.checkpoint.metadata import CheckpointMeta, read_meta
from megatron_mmbert.checkpoint.optimizer_state import (
    MASTER,
    STEP_KEY,
    key_of,
    load_state,
    state_to_load,
    state_to_save,
)
from megatron_mmbert.checkpoint.safe_unpickle import check_contents, readable
from megatron_mmbert.checkpoint.save_plan import CONTENT
from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.optim.optimizer import Optimizer
from megatron_mmbert.parallel.runtime import all_ranks
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.finite import finite_problem

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
"""Fields in which a checkpoint must equal the recipe. The last three change no tensor's shape, but the function."""
_FUNCTION_FIELDS = {
    "global_attention_every": "global_layers",
    "window_each_side": "window_each_side",
    "norm_eps": "norm_eps",
}
"""Those that may differ if the recipe allows it, and their names in :mod:`.identity`."""


def state_of(model: Encoder | Sequence[Encoder], optimizer: Optimizer | None) -> dict[str, Any]:
    """Return this rank's part of a checkpoint, sharing memory with the model and the optimizer.

    Args:
        model: the bare encoder of this rank (not wrapped for data parallelism), or its chunks under interleaving.
        optimizer: None for weights only.
    """
    state: dict[str, Any] = {"model": [_model_state(chunk) for chunk in _chunks(model)]}
    if optimizer is not None:
        state["optimizer"] = state_to_save(optimizer)
    return state


def save(path: Path, meta: CheckpointMeta, model: Encoder | Sequence[Encoder], optimizer: Optimizer | None) -> None:
    """Write a checkpoint on all ranks together and commit it by one rename; see :func:`state_of`.

    Raises:
        UserError: it could not be written; nothing is left of it.
    """
    outcome = AsyncSaver(asynchronous=False).begin(path, meta, state_of(model, optimizer))
    if outcome is not None and outcome.problem:
        raise UserError(outcome.problem)


def load(path: Path, model: Encoder | Sequence[Encoder], optimizer: Optimizer | None) -> None:
    """Load weights, and the optimizer's state where ``optimizer`` is given, saved in any parallel layout.

    Raises:
        UserError: a corrupt checkpoint, a tensor that is not finite, one that this model has not, or that the
            checkpoint lacks.
    """
    check_contents(path)
    with readable(path), torch.no_grad():
        _load(path, model, optimizer)


def _load(path: Path, model: Encoder | Sequence[Encoder], optimizer: Optimizer | None) -> None:
    stored = dist_checkpointing.load_tensors_metadata(str(path))
    if optimizer is not None and STEP_KEY not in stored:
        raise UserError(f"{path}: its optimizer state is not of this version; set the phase's optimizer_state to reset")
    chunks = _chunks(model)
    wanted = {"model": [_precise(_model_state(chunk), stored) for chunk in chunks]}
    loaded = dist_checkpointing.load(wanted, str(path))["model"]
    for weights in loaded:
        _check_finite(path, weights)
    for chunk, weights in zip(chunks, loaded, strict=True):
        load_weights(chunk, weights, path)
    if optimizer is not None:
        # Not with the weights: masters may come from the same stored tensors, and Megatron wants one dtype for each.
        state = dist_checkpointing.load(state_to_load(optimizer, stored), str(path))
        _check_finite(path, state)
        load_state(optimizer, state)


def _check_finite(path: Path, tensors: Mapping[str, Any]) -> None:
    """Raise UserError on every rank if a tensor that any of them has read is not finite."""
    mine = (finite_problem(each, name.partition("@")[0]) for name, each in tensors.items() if isinstance(each, Tensor))
    for problem in filter(None, all_ranks(next(filter(None, mine), None))):
        raise UserError(f"{path}: {problem}; take another checkpoint")


def load_weights(encoder: Encoder, weights: Mapping[str, Any], path: Path) -> None:
    """Copy ``weights`` into the encoder.

    Raises:
        UserError: a tensor is missing, or one too many; the sentence names it and ``path``.
    """
    missing, unexpected = encoder.load_state_dict(weights, strict=False)
    strangers = [name for name in (*missing, *unexpected) if not name.endswith(_EXTRA_STATE)]
    if strangers:
        raise UserError(f"{path}: tensor {strangers[0]!r} does not fit this model; take another checkpoint")


def _chunks(model: Encoder | Sequence[Encoder]) -> Sequence[Encoder]:
    return [model] if isinstance(model, Encoder) else model


def _model_state(model: Encoder) -> dict[str, Any]:
    """Return the encoder's sharded tensors without the layers' empty "extra state".

    Checkpoints made of plain tensors (merged, converted) have none.
    """
    state = model.sharded_state_dict(metadata=dict(CONTENT))
    return {name: value for name, value in state.items() if not name.endswith(_EXTRA_STATE)}


def _precise(state: dict[str, Any], stored: Container[str]) -> dict[str, Any]:
    """Have fp32 weights read from the fp32 masters of a bf16 run, where the checkpoint has them."""
    for value in nested_values(state):
        if isinstance(value, ShardedTensor | ShardedTensorFactory):
            master = key_of(MASTER, value.key)
            if value.data is not None and value.data.dtype == torch.float32 and master in stored:
                value.key = master
    return state


def check_shape(path: Path, expected: ModelConfig, allowed: Container[str] = ()) -> CheckpointMeta:
    """Return the checkpoint's description, if its encoder has the shape that the recipe asks for.

    Args:
        allowed: names of :mod:`.identity` in which it may differ; a difference in tensors' shapes is never allowed.

    Raises:
        UserError: it has another shape; the sentence names the first field that differs.
    """
    meta = read_meta(path)
    for field in SHAPE_FIELDS:
        theirs, ours = getattr(meta.model, field), getattr(expected, field)
        name = _FUNCTION_FIELDS.get(field)
        if theirs != ours and name not in allowed:
            meant = f", or pass {FLAG} {name} if you mean it" if name else ""
            raise UserError(
                f"{path}: the checkpoint has {field} {theirs} and the recipe {ours}; "
                f"name another checkpoint or change the recipe's model section{meant}"
            )
    return meta
