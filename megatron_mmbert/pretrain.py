"""Train one phase of a recipe: ``torchrun [...] -m megatron_mmbert.pretrain RECIPE.yaml --phase NAME``.

Starts from the phase before it, or resumes where it stopped; says so and ends when the phase is complete already.
``key.path=value`` overrides recipe values: ``phases.midtrain.tokens=10B model.attention_output_dropout=0``.
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from typing import Any

from megatron_mmbert.config.loading import load_recipe, save_recipe
from megatron_mmbert.config.recipe import Phase, Recipe
from megatron_mmbert.errors import UserError, nearest, run_command


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m megatron_mmbert.pretrain",
        description="Train one phase of a recipe, or resume it.",
        epilog="Example: torchrun --nproc-per-node 8 -m megatron_mmbert.pretrain recipe.yaml --phase pretrain",
    )
    parser.add_argument("recipe", type=Path, help="the recipe, a YAML file")
    parser.add_argument("--phase", required=True, help="name of a phase of the recipe")
    parser.add_argument("--output", type=Path, help="the run's folder (default runs/NAME of the recipe)")
    parser.add_argument("--start-from", type=Path, metavar="CKPT", help="start the phase from this checkpoint")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="recipe values to replace")
    return parser.parse_intermixed_args()  # overrides may stand behind options


def main() -> int:
    arguments = parse()
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    names = [phase.name for phase in recipe.phases]
    if arguments.phase not in names:
        raise UserError(
            f"{arguments.recipe}: no phase {arguments.phase!r}{nearest(arguments.phase, names)}; "
            f"choose from {', '.join(names)}"
        )
    output = arguments.output or Path("runs") / recipe.name
    run(recipe, recipe.phase(arguments.phase), output, arguments.start_from)
    return 0


def run(recipe: Recipe, phase: Phase, output: Path, start_from: Path | None = None) -> Path:
    """Train ``phase`` in this process's place of the parallel world; returns the last checkpoint's folder."""
    # Megatron-Core takes seconds to import: not before the recipe is known to be good.
    from megatron_mmbert import parallel
    from megatron_mmbert.checkpoint.folder import resolve
    from megatron_mmbert.train.loop import train
    from megatron_mmbert.train.session import Session

    runtime = parallel.start(recipe.parallel.tensor, recipe.parallel.pipeline, recipe.seed)
    session = Session(recipe, phase, output, runtime, start_from)
    if session.finished:
        path = resolve(session.folder.checkpoints)
        if runtime.is_main:
            print(f"phase {phase.name} is complete: {path}")
        return path
    if runtime.is_main:
        session.folder.path.mkdir(parents=True, exist_ok=True)
        save_recipe(recipe, session.folder.recipe)
        _describe(session)
    hooks = _hooks(session) if runtime.is_main else []
    stop = _stop_on_signal()
    try:
        path = train(session, hooks, stop)
    finally:
        for hook in hooks:
            hook.close()
        session.close()
    if runtime.is_main:
        done = session.phase_tokens >= phase.tokens
        print(f"phase {phase.name} {'complete' if done else 'stopped, run again to go on'}: {path}")
    parallel.shutdown()
    return path


def _hooks(session: Any) -> list[Any]:
    from megatron_mmbert.train.hooks import Console, MetricsFile, TensorBoard

    logging = session.recipe.logging
    hooks: list[Any] = [Console(logging.every_steps), MetricsFile(session.folder.metrics, session.step)]
    if logging.tensorboard:
        hooks.append(TensorBoard(session.folder.tensorboard, session.step))
    return hooks


def _describe(session: Any) -> None:
    """What this phase is about to do, and its mixture by language beside the checkpoints."""
    from megatron_mmbert.files import write_json

    phase = session.phase
    plan = session.loader.mixture.expected()
    write_json(session.folder.path / "mixture.json", [vars(group) for group in plan])
    parameters = sum(parameter.numel() for parameter in session.training.encoder.parameters())
    print(
        f"phase {phase.name}: {phase.tokens:,} tokens of {len(plan)} languages, length {phase.max_length}, "
        f"theta {phase.rope_theta:g}, lr {phase.lr:g}; {parameters:,} parameters a rank, {session.runtime.describe()}, "
        f"peak {session.peak_flops / 1e12:.2f} TFLOP/s"
    )
    most = max(plan, key=lambda group: group.epochs)
    if most.epochs > 4:
        repeated = sum(group.epochs > 4 for group in plan)
        print(f"{repeated} languages are read more than 4 times, most often {most.language}: {most.epochs:.1f} times")


def _stop_on_signal() -> Any:
    """A function that tells whether SIGTERM came; the loop then ends the step, saves and returns."""
    seen: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    return lambda: bool(seen)


if __name__ == "__main__":
    run_command(main)
