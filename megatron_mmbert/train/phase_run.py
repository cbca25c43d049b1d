"""One phase of a run, in one rank: from joining the process group to its last checkpoint, or to a request to stop.

Everything that takes seconds to import is imported inside the functions: a signal that comes meanwhile is heard.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_mmbert.builders.run_folder import PhaseFolder
from megatron_mmbert.config.loading import save_recipe
from megatron_mmbert.config.phase import Phase
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.resilience.run_lease import LeaseHeldError
from megatron_mmbert.train.callbacks import Callback, Heartbeat, Tolerant
from megatron_mmbert.train.callbacks.stop_request import StopRequest
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import write_json

if TYPE_CHECKING:
    from megatron_mmbert.eval.bits_per_byte import HeldOut
    from megatron_mmbert.train.trainer import Trainer

PacksThatFit = Callable[[Recipe, Phase, int, float], int]
"""(recipe, phase, GPUs, bytes of one) -> packs of a micro batch."""


def run_phase(
    recipe: Recipe,
    phase: Phase,
    folder: PhaseFolder,
    stop: StopRequest,
    start_from: Path | None = None,
    packs_that_fit: PacksThatFit | None = None,
) -> bool:
    """Train ``phase`` as this process's rank of the process group; returns whether the phase is complete.

    ``packs_that_fit`` chooses the packs of a micro batch on GPUs where the recipe leaves them open; by default one.

    Ranks that disagree end here, with one sentence; when a rank fails or hangs, all end with
    :data:`~megatron_mmbert.utils.errors.EXIT_FAILED_RANK` and a sentence that names it.
    """
    try:
        return _join_and_train(recipe, phase, folder, stop, start_from, packs_that_fit)
    except LeaseHeldError:
        raise  # the folder is another's: nothing is written into it
    except UserError as error:
        # What one rank alone meets, the others see as its loss: it says so itself.
        if folder.path.is_dir() and (os.environ.get("RANK", "0") == "0" or not folder.failed.exists()):
            folder.write(folder.failed, {"error": str(error)})
        raise


def _join_and_train(
    recipe: Recipe,
    phase: Phase,
    folder: PhaseFolder,
    stop: StopRequest,
    start_from: Path | None,
    packs_that_fit: PacksThatFit | None,
) -> bool:
    # Megatron-Core takes seconds to import: not before the recipe is known to be good.
    from megatron_mmbert import parallel
    from megatron_mmbert.parallel import deterministic
    from megatron_mmbert.resilience.consistency import check_consistency, fingerprint_facts
    from megatron_mmbert.resilience.rank_monitor import monitored_ranks
    from megatron_mmbert.train.phase_lease import phase_lease

    if recipe.precision.deterministic:
        deterministic.switch_on()
    parallel.enable_cpu_mode()
    parallel.join(recipe.parallel.timeout_minutes)
    layout, limits = recipe.parallel, recipe.resilience
    with monitored_ranks(limits.failed_rank_seconds, limits.hang_seconds, folder.interrupted):
        check_consistency(fingerprint_facts(recipe, phase.name))
        parallel.start(
            layout.tensor,
            layout.pipeline,
            recipe.seed,
            virtual_stages=layout.virtual_stages,
            timeout_minutes=layout.timeout_minutes,
        )
        with phase_lease(folder) as lease:
            max_packs = _max_packs(recipe, phase, packs_that_fit)
            return _train(recipe, phase, folder, [*lease, stop], stop, start_from, max_packs)


def _max_packs(recipe: Recipe, phase: Phase, packs_that_fit: PacksThatFit | None) -> int | None:
    """Return the most packs of one micro batch that a GPU holds; None on a CPU, or where the recipe says it."""
    from megatron_mmbert.parallel.runtime import broadcast_object, current, print_once

    here = current()
    if packs_that_fit is None or here.device.type != "cuda" or phase.batch.packs_per_micro_batch is not None:
        return None
    import torch

    memory = torch.cuda.get_device_properties(here.device).total_memory
    packs = broadcast_object(packs_that_fit(recipe, phase, here.world_size, memory))
    print_once(f"phase {phase.name}: micro batches of up to {packs} packs of {phase.batch.pack_tokens:,} tokens")
    return int(packs)


def _train(
    recipe: Recipe,
    phase: Phase,
    folder: PhaseFolder,
    first: Sequence[Callback],
    stop: StopRequest,
    start_from: Path | None,
    max_packs: int | None,
) -> bool:
    from megatron_mmbert import parallel
    from megatron_mmbert.checkpoint.discovery import resolve
    from megatron_mmbert.parallel.runtime import any_rank, print_once
    from megatron_mmbert.train.loop import train
    from megatron_mmbert.train.resume import find_starting_point
    from megatron_mmbert.train.trainer import build_trainer

    is_main = parallel.current().is_main
    callbacks = _first_callbacks(folder, first) if is_main else []
    start = find_starting_point(recipe, phase, folder.output, start_from)
    if start.finished and not _score_is_missing(recipe, folder):
        print_once(f"phase {phase.name} is complete: {resolve(folder.checkpoints)}")
        return True
    held_out_text = load_held_out_text(recipe)
    trainer = build_trainer(recipe, phase, folder.output, start, max_packs)
    if is_main:
        save_recipe(recipe, folder.recipe)
        _describe(trainer)
    callbacks += phase_callbacks(trainer, held_out_text, callbacks)
    try:
        path = train(trainer, callbacks, lambda: any_rank(stop.reason() is not None))
    finally:
        for callback in callbacks:
            callback.close()
        trainer.close()
    stop.ignore()
    if is_main:
        _report_end(trainer, path, stop)
    parallel.shutdown()
    return trainer.is_complete


def _score_is_missing(recipe: Recipe, folder: PhaseFolder) -> bool:
    """Return whether a process ended between the last checkpoint of the phase and its held-out score."""
    from megatron_mmbert.parallel.runtime import broadcast_object, current

    missing = bool(recipe.evaluation.stores) and current().is_main and "after" not in folder.read(folder.scores)
    return bool(broadcast_object(missing))


def _first_callbacks(folder: PhaseFolder, first: Sequence[Callback]) -> list[Callback]:
    """Clear the signs of earlier processes; returns the callbacks of rank 0 that are there while the model is built."""
    for sign in (folder.stopped, folder.failed, folder.interrupted):
        sign.unlink(missing_ok=True)
    return [Tolerant(Heartbeat(folder.heartbeat)), *first]


def load_held_out_text(recipe: Recipe) -> HeldOut | None:
    """Return the recipe's held-out text; None where it names no stores of it."""
    from megatron_mmbert.builders.data import tokenizer_of
    from megatron_mmbert.eval.bits_per_byte import load_held_out

    return load_held_out(recipe, tokenizer_of(recipe)) if recipe.evaluation.stores else None


def phase_callbacks(trainer: Trainer, text: HeldOut | None, first: Sequence[Callback] = ()) -> list[Callback]:
    """Return the callbacks of a phase on this rank: those of its recipe on rank 0, held-out scoring on every rank.

    Args:
        first: callbacks that come before them, and are told of the scores too.
    """
    from megatron_mmbert import parallel
    from megatron_mmbert.train.callbacks import CallbackList
    from megatron_mmbert.train.callbacks.from_recipe import recipe_callbacks
    from megatron_mmbert.train.callbacks.held_out import HeldOutScoring

    recipe, folder = trainer.recipe, trainer.folder
    found = recipe_callbacks(recipe, folder, trainer.counters) if parallel.current().is_main else []
    if text is None:
        return found
    others = CallbackList([*first, *found])
    return [*found, HeldOutScoring(text, trainer.training, recipe.evaluation.every_tokens, folder, others)]


def _report_end(trainer: Trainer, checkpoint: Path, stop: StopRequest) -> None:
    """Print how the phase ended, and leave ``stopped.json`` where it is not complete."""
    phase, folder = trainer.phase, trainer.folder
    if trainer.is_complete:
        print(f"phase {phase.name} complete: {checkpoint}")
        return
    reason = stop.reason() or "another rank was asked to"
    stopped = {"reason": reason, "step": trainer.counters.step, "checkpoint": str(checkpoint)}
    folder.write(folder.stopped, stopped)
    print(f"phase {phase.name} stopped ({reason}), run again to resume: {checkpoint}")


def _describe(trainer: Trainer) -> None:
    """Print what this phase is about to do, and write its mixture by language beside the checkpoints."""
    from megatron_mmbert import parallel
    from megatron_mmbert.model.layers import engines_of

    phase, training = trainer.phase, trainer.training
    plan = trainer.loader.mixture.expected()
    write_json(trainer.folder.path / "mixture.json", [vars(group) for group in plan])
    parameters = sum(parameter.numel() for encoder in training.encoders for parameter in encoder.parameters())
    layout = parallel.current().describe()
    print(
        f"phase {phase.name}: {phase.tokens:,} tokens of {len(plan)} languages, length {phase.max_length}, "
        f"theta {phase.rope_theta:g}, lr {phase.lr:g}; {parameters:,} parameters a rank, {layout}, "
        f"peak {trainer.peak_flops / 1e12:.2f} TFLOP/s; attention {engines_of(training.encoders[0])}, "
        f"linear layers {training.linear_layers}"
    )
    longest = max(plan, key=lambda group: group.epochs)
    if longest.epochs > 4:
        repeated = sum(group.epochs > 4 for group in plan)
        often = f"most often {longest.language}: {longest.epochs:.1f} times"
        print(f"{repeated} languages are read more than 4 times, {often}")
