"""Starting a phase: the checkpoint to load, the state to continue in, and loading it.

A phase resumes from its own newest valid checkpoint; without one it starts from the last checkpoint of the phase that
its ``from`` names, after a phase transition, or from random initial weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megatron_mmbert.builders.run_folder import PhaseFolder
from megatron_mmbert.checkpoint import identity, training_state
from megatron_mmbert.checkpoint.discovery import committed_checkpoints, newest_valid, resolve
from megatron_mmbert.checkpoint.metadata import CheckpointMeta
from megatron_mmbert.checkpoint.phase_transition import explain, transition
from megatron_mmbert.checkpoint.retention import remove_leftovers
from megatron_mmbert.config.phase import Phase
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.parallel.runtime import broadcast_object, current, print_once
from megatron_mmbert.train.resume_check import check
from megatron_mmbert.train.step import Training
from megatron_mmbert.utils.errors import UserError


@dataclass(frozen=True)
class StartingPoint:
    """The checkpoint that a phase is loaded from, and the phase's state at its next step.

    Attributes:
        path: None: the phase starts from random initial weights.
        meta: description of that state; for a checkpoint of an earlier phase, after the transition.
        is_own: the checkpoint is one of this phase.
    """

    path: Path | None
    meta: CheckpointMeta
    is_own: bool

    @property
    def finished(self) -> bool:
        """True where the phase is complete already."""
        return self.is_own and self.meta.finished

    @property
    def origin(self) -> str:
        """The source of the phase's first weights, for the descriptions of its checkpoints."""
        return self.meta.origin or (str(self.path) if self.path else "random initial weights")


def find_starting_point(recipe: Recipe, phase: Phase, output: Path, start_from: Path | None = None) -> StartingPoint:
    """Find the checkpoint that ``phase`` is loaded from; called by all ranks together.

    Args:
        output: the run's folder.
        start_from: a checkpoint to start the phase from in place of the recipe's choice.

    Raises:
        UserError: the checkpoint does not fit the recipe, or the phase before is not complete.
    """
    folder = PhaseFolder(output, phase.name)
    if current().is_main:
        remove_leftovers(folder.checkpoints)
    own = newest_checkpoint(folder)
    if own is None and start_from is None:
        refuse_damaged(folder)
    identity.check_names(phase.allow_different)
    if own is not None:
        meta = training_state.check_shape(own, recipe.model, phase.allow_different)
        identity.check_thetas(own, meta, phase, phase.allow_different)
        if not meta.finished:
            print_once(f"resuming {own} at step {meta.step}, {meta.phase_tokens:,} tokens")
        return StartingPoint(own, meta, is_own=True)
    origin = recipe.origin(phase)
    if start_from is None and origin is None:
        return StartingPoint(None, fresh_meta(recipe, phase), is_own=False)
    path = resolve(start_from if start_from is not None else PhaseFolder(output, str(origin)).path)
    before = training_state.check_shape(path, recipe.model, phase.allow_different)
    allowed = {*phase.allow_different, *identity.intended_changes(phase, before)}
    identity.check_thetas(path, before, phase, allowed)
    if start_from is None and not before.finished:
        raise UserError(
            f"{path}: phase {origin!r} has not finished ({before.phase_tokens:,} tokens); run it to its end, or "
            f"give this checkpoint as --start-from to continue from it as it is"
        )
    after = transition(before, recipe, phase)
    print_once("\n".join((f"starting phase {phase.name} from {path}", *explain(before, after))))
    # --start-from may name a checkpoint of this very phase, that is not its newest valid one.
    return StartingPoint(path, after, is_own=path.parent == folder.checkpoints)


def refuse_damaged(folder: PhaseFolder) -> None:
    """Refuse to begin a phase anew that has checkpoints, none of which is valid: a month of work may lie in them.

    Raises:
        UserError: it has, on every rank.
    """
    found = broadcast_object(
        [path.name for path in committed_checkpoints(folder.checkpoints)] if current().is_main else []
    )
    if found:
        raise UserError(
            f"{folder.checkpoints}: none of {len(found)} checkpoints is valid ({', '.join(found[-3:])}); copy them "
            f"again, name another with --start-from, or move the folder away to begin the phase anew"
        )


def newest_checkpoint(folder: PhaseFolder) -> Path | None:
    """Return the phase's newest valid checkpoint, on every rank.

    One rank reads and checks all files: a disk should not have to deliver them to a thousand ranks.
    """
    found: Path | None = broadcast_object(newest_valid(folder.checkpoints, print_once) if current().is_main else None)
    return found


def fresh_meta(recipe: Recipe, phase: Phase) -> CheckpointMeta:
    """Return the description of a phase that starts from nothing."""
    return CheckpointMeta(
        model=recipe.model,
        rope_theta=phase.rope_theta,
        rope_theta_local=phase.theta_local,
        max_length=phase.max_length,
        phase=phase.name,
        recipe=recipe.to_dict(),
    )


def resume(training: Training, start: StartingPoint, check_batch: str) -> None:
    """Load weights and optimizer of the starting point; of a phase's own checkpoint, compare the recorded loss.

    Args:
        check_batch: the recipe's ``checkpoint.resume_check``: ``stop`` or ``warn`` where the loss differs, or ``none``.

    Raises:
        UserError: the loss on the recorded batch is not what it was, and ``check_batch`` is ``stop``.
    """
    if start.path is None:
        return
    load(training, start.path, start.meta.has_optimizer)
    if not start.is_own or check_batch == "none":
        return
    if start.meta.replay is None:
        print_once(f"{start.path}: no batch recorded, so none is replayed")
        return
    try:
        print_once(check(start.path, start.meta.replay, training.encoders))
    except UserError as error:
        if check_batch == "stop":
            raise
        print_once(f"warning: {error}")


def load(training: Training, path: Path, with_optimizer: bool) -> None:
    """Load the weights of checkpoint ``path``, and its optimizer state where it has one that is wanted."""
    training_state.load(path, training.encoders, training.optimizer if with_optimizer else None)
    if not with_optimizer:
        training.optimizer.reload_model_params()
