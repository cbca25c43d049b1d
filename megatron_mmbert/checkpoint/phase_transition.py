"""The transition from one phase to the next: counters, the optimizer's state, and what changes for the model.

Pure functions over the checkpoint's description, used by training in memory and by the commands on disk.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from megatron_mmbert import __version__
from megatron_mmbert.checkpoint.commit import CHECKSUM_FILE, committed_checkpoint
from megatron_mmbert.checkpoint.metadata import META_FILE, CheckpointMeta, TrainedSection, read_meta, write_meta
from megatron_mmbert.config.phase import Phase
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.config.values import LinearRamp
from megatron_mmbert.data.sampling.resume import blocks_begun
from megatron_mmbert.utils.errors import UserError

_FRESH_COUNTERS: dict[str, Any] = {
    "step": 0,
    "phase_tokens": 0,
    "loader": {},
    "finished": False,
    "recent_losses": [],
    "replay": None,  # another theta is another function
}
_SETTINGS = {
    "mask_ratio": "mask ratio",
    "temperature": "sampling temperature",
    "languages": "languages",
    "boost": "language boosts",
    "sources": "source shares",
    "lr": "peak learning rate",
    "schedule": "learning-rate schedule",
    "weight_decay": "weight decay",
    "batch": "batch",
}


def transition(meta: CheckpointMeta, recipe: Recipe, phase: Phase) -> CheckpointMeta:
    """Return the state in which ``phase`` starts from the checkpoint that ``meta`` describes.

    The phase's counters start at zero, and the total continues. The optimizer's state is dropped only if the phase says
    so: a reset costs the moments, thus a warm-up, and mmBERT keeps them.

    Args:
        meta: of a checkpoint of the recipe's shape (``checkpoint.training_state.check_shape``).
        phase: one of ``recipe.phases``.
    """
    return meta.model_copy(
        update={
            **_FRESH_COUNTERS,
            "model": recipe.model,
            "rope_theta": phase.rope_theta,
            "rope_theta_local": phase.theta_local,
            "max_length": phase.max_length,
            "phase": phase.name,
            "history": history_of(meta),
            "has_optimizer": meta.has_optimizer and phase.optimizer_state == "keep",
            "recipe": recipe.to_dict(),
            "origin": _origin(meta),
            "code_version": __version__,
        }
    )


def extend(meta: CheckpointMeta, max_length: int, theta: float, theta_local: float | None = None) -> CheckpointMeta:
    """Return the description of the same weights meant for longer samples.

    The counters start anew, as the loader counts examples of the old length.

    Args:
        theta_local: base of the local layers; by default that of the global ones, as in mmBERT (ModernBERT keeps
            10,000).

    Raises:
        UserError: a length or a theta below the checkpoint's, one that is no positive number, or nothing to change.
    """
    local = theta if theta_local is None else theta_local
    if max_length < meta.max_length:
        raise UserError(f"--max-length {max_length}: below the checkpoint's {meta.max_length}; give a larger one")
    wanted = (("--rope-theta", theta, meta.rope_theta), ("--rope-theta-local", local, meta.rope_theta_local))
    for option, value, before in wanted:
        if not (math.isfinite(value) and value >= before):
            raise UserError(
                f"{option} {value:g}: must be a number and not below the checkpoint's {before:g}; a longer context "
                "needs a larger theta"
            )
    if (max_length, theta, local) == (meta.max_length, meta.rope_theta, meta.rope_theta_local):
        raise UserError(
            f"--max-length {max_length}: the checkpoint has this length and theta already; give larger ones"
        )
    model = meta.model.model_copy(update={"max_length": max(max_length, meta.model.max_length)})
    return meta.model_copy(
        update={
            **_FRESH_COUNTERS,
            "model": model,
            "rope_theta": theta,
            "rope_theta_local": local,
            "max_length": max_length,
            "history": history_of(meta),
            "origin": _origin(meta),
            "code_version": __version__,
        }
    )


def history_of(meta: CheckpointMeta) -> list[TrainedSection]:
    """Return the phases trained before one that starts from the checkpoint: its history, and its own phase.

    Its own is left out when the loader's position belongs to no phase of the saved recipe: the data read is not known.
    """
    section = _settings(meta)
    if not (section and {"block", "pack", "fingerprint"} <= set(meta.loader)):
        return meta.history
    trained = TrainedSection(
        phase=section,
        sources=meta.recipe.get("data", {}).get("sources", {}),
        seed=meta.recipe["seed"],
        blocks=blocks_begun(meta.loader),
        fingerprint=meta.loader["fingerprint"],
    )
    return [*meta.history, trained]


def explain(old: CheckpointMeta, new: CheckpointMeta) -> list[str]:
    """Return one line for each change from ``old`` to ``new``, counters and the optimizer's state among them."""
    lines = []
    if old.phase != new.phase:
        lines.append(f"phase: {old.phase or 'none'} -> {new.phase}")
    if old.phase and old.step and not old.finished:
        lines.append(f"note: phase {old.phase} was not complete ({old.phase_tokens:,} tokens)")
    lines.append(
        f"counters: step {old.step:,} -> {new.step:,}, tokens of the phase {old.phase_tokens:,} -> "
        f"{new.phase_tokens:,}; {new.total_tokens:,} tokens in total so far"
    )
    if new.history:
        phases = ", ".join(each.phase["name"] for each in new.history)
        lines.append(f"data: continues where {phases} stopped; no text comes again before its language's epoch is over")
    lines.append(f"optimizer state: {_optimizer_state(old, new)}")
    lines += _change("theta of global layers", _number(old.rope_theta), _number(new.rope_theta))
    lines += _change("theta of local layers", _number(old.rope_theta_local), _number(new.rope_theta_local))
    lines += _change("longest sample", f"{old.max_length} tokens", f"{new.max_length} tokens")
    before, after = _settings(old), _settings(new)
    if before and after:
        for key, name in _SETTINGS.items():
            lines += _change(name, _text(before.get(key)), _text(after.get(key)))
    return lines


def write_transition(checkpoint: Path, meta: CheckpointMeta, output: Path, overwrite: bool = False) -> None:
    """Write checkpoint ``output``: the tensors of ``checkpoint`` under the description ``meta``, committed by rename.

    Files are copied, not linked: damage to one would else be damage to both. When the optimizer's state is reset, only
    the weights are written, so that the description fits the tensors. Needs a running process group.

    Raises:
        UserError: a tensor is not finite, or cannot be read.
    """
    from megatron_mmbert.checkpoint.tensor_reader import CheckpointTensors, write_tensors  # Megatron takes seconds
    from megatron_mmbert.utils.finite import check_finite

    tensors = CheckpointTensors(checkpoint)
    if read_meta(checkpoint).has_optimizer and not meta.has_optimizer:
        loaded = {name: tensors.load(name) for name in tensors.names()}
        write_tensors(output, meta, loaded, (checkpoint,), overwrite)
        return
    for name, tensor in tensors.everything():
        check_finite(tensor, name, checkpoint, "take another checkpoint")
    with committed_checkpoint(output, (checkpoint,), overwrite) as folder:
        shutil.copytree(checkpoint, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(META_FILE, CHECKSUM_FILE))
        write_meta(folder, meta)


def _origin(meta: CheckpointMeta) -> str:
    """Return the origin of the weights: the phase that trained them, else what the checkpoint itself says."""
    if not (meta.phase and meta.step):
        return meta.origin
    return f"phase {meta.phase}, step {meta.step:,}, {meta.total_tokens:,} tokens in total"


def _optimizer_state(old: CheckpointMeta, new: CheckpointMeta) -> str:
    """Return in words what happens to the optimizer's state."""
    if not old.has_optimizer:
        return "none in the checkpoint; starts empty"
    return "kept" if new.has_optimizer else "reset; moments start empty"


def _change(name: str, before: str, after: str) -> list[str]:
    return [] if before == after else [f"{name}: {before} -> {after}"]


def _settings(meta: CheckpointMeta) -> dict[str, Any]:
    """Return the phase's section of the recipe; empty when the checkpoint has none."""
    return next((phase for phase in meta.recipe.get("phases", []) if phase.get("name") == meta.phase), {})


def _text(value: Any) -> str:
    """Return a setting in words: schedules as ``0.3 to 0.15``, long lists by their length."""
    if isinstance(value, dict) and set(value) == {"from", "to"}:
        return LinearRamp.model_validate(value).describe()
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(each)}" for key, each in value.items()) or "none"
    if isinstance(value, list):
        shown = ", ".join(map(str, value[:6]))
        return shown if len(value) <= 6 else f"{len(value)} ({shown}, …)"
    if value is None:
        return "default"
    return _number(value) if isinstance(value, int | float) else str(value)


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:g}"
