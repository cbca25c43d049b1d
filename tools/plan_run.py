"""What a recipe would do, without doing it: steps, languages and how often they are read, arithmetic, time, cost.

    python tools/plan_run.py recipe.yaml
    python tools/plan_run.py recipe.yaml --token-counts languages.tsv --gpus 64 --tokens-per-second 100k
    python tools/plan_run.py recipe.yaml --gpus 64 --flops-per-second 989T --mfu 0.4 --watts 1000 --price-per-hour 2.5
    python tools/plan_run.py recipe.yaml --gpus 64 --gpu h100 --mfu 0.4    # chooses a layout, forecasts 1 to 4,096 GPUs
    python tools/plan_run.py recipe.yaml --output shares.png --output plan.json phases.pretrain.temperature=0.5

Reads the recipe's stores as far as they exist. Before there are any, --token-counts takes a TSV with the columns
language (or code), tokens and, if wanted, source. What training would refuse for lack of text is a warning here.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also runs from a checkout that is not installed

from megatron_mmbert.config.loading import load_recipe
from megatron_mmbert.config.parallel import ParallelConfig
from megatron_mmbert.config.values import parse_count
from megatron_mmbert.plan.cost import Machine, forecast
from megatron_mmbert.plan.gpus import KINDS, Gpu, gpu_of
from megatron_mmbert.plan.render.memory_table import largest_layout, memory_table
from megatron_mmbert.plan.render.plan_tables import plan_text
from megatron_mmbert.plan.render.scaling_tables import choice_text, choose, scaling_text, traffic_text
from megatron_mmbert.plan.run_plan import Plan, as_json, make_plan
from megatron_mmbert.plan.scaling import scaling
from megatron_mmbert.utils.errors import UserError, run_command
from megatron_mmbert.utils.files import write_json

_ENDINGS = (".png", ".json")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="the recipe, a YAML file")
    parser.add_argument("--token-counts", type=Path, metavar="TSV", help="plan with these counts, not with the stores")
    parser.add_argument("--tokens-column", default="tokens", metavar="NAME", help="its column of counts (%(default)s)")
    parser.add_argument("--most-epochs", type=float, default=4.0, metavar="E", help="warn above (default %(default)g)")
    parser.add_argument("--all", action="store_true", help="list all languages of every phase")
    parser.add_argument("--output", type=Path, action="append", default=[], metavar="FILE", help=".png or .json")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="GPUs that train (default %(default)s)")
    parser.add_argument("--gpu", metavar="KIND", help=f"choose a layout and forecast scaling: {', '.join(KINDS)}")
    parser.add_argument("--scaling-picture", type=Path, metavar="PNG", help="draw the forecast; with --gpu")
    parser.add_argument("--link-bandwidth", type=float, metavar="GB/S", help="of --gpu in its node, one direction")
    parser.add_argument("--network-bandwidth", type=float, metavar="GB/S", help="of --gpu to other nodes")
    speed = parser.add_mutually_exclusive_group()
    speed.add_argument("--tokens-per-second", metavar="X", help="speed of one GPU in every phase: 100k")
    speed.add_argument("--flops-per-second", metavar="F", help="peak of one GPU: 989T; say how much of it is reached:")
    parser.add_argument("--mfu", type=float, metavar="U", help="share of the peak that training reaches: 0.4")
    parser.add_argument("--watts", type=float, help="power of one GPU with its part of the host")
    parser.add_argument("--price-per-hour", type=float, metavar="P", help="price of one GPU")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="recipe values to replace")
    return parser.parse_intermixed_args()  # overrides may stand behind options


def main() -> None:
    arguments = parse_arguments()
    gpu = _gpu(arguments)
    if gpu and arguments.mfu is not None and arguments.tokens_per_second is None:
        arguments.flops_per_second = arguments.flops_per_second or str(round(gpu.peak))
    machine = _machine(arguments)
    if gpu and machine.tokens_per_second is None and machine.flops_per_second is None:
        raise UserError(f"--gpu {gpu.name}: needs a speed; give --tokens-per-second, or --mfu")
    for path in arguments.output:
        if path.suffix not in _ENDINGS:
            raise UserError(f"--output {path}: name a file that ends in {' or '.join(_ENDINGS)}")
    if not arguments.most_epochs > 0:
        raise UserError(f"--most-epochs {arguments.most_epochs:g}: must be above 0")
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    text = (arguments.most_epochs, arguments.token_counts, arguments.tokens_column)
    further: list[str] = []
    if gpu:
        alone = recipe.model_copy(update={"parallel": ParallelConfig()})
        single = make_plan(alone, replace(machine, gpus=1), *text)
        speeds = [found.tokens_per_second for each in single.phases if (found := forecast(each, single.machine))]
        points = choose(recipe, speeds, machine.gpus, gpu)
        further.append(choice_text(recipe, points, gpu))
        phases = list(zip(recipe.phases, speeds, strict=True))
        forecasts = {phase.name: scaling(recipe, phase, rate, gpu) for phase, rate in phases}
        texts = [scaling_text(phase, forecasts[phase.name], rate, gpu) for phase, rate in phases]
        recipe = recipe.model_copy(update={"parallel": points[0].parallel})
        further += [traffic_text(recipe.model, largest_layout(recipe, machine.gpus), gpu), *texts]
    plan = make_plan(recipe, machine, *text)
    for path in arguments.output:
        _write(plan, path)
    if gpu and arguments.scaling_picture:
        from megatron_mmbert.plan.render.scaling_plot import plot_scaling

        plot_scaling(recipe.name, forecasts, gpu, arguments.scaling_picture)
    print(plan_text(plan, arguments.all))
    print(f"\n{memory_table(recipe, arguments.gpus)}")
    for part in further:
        print(f"\n{part}")
    for path in [*arguments.output, *([arguments.scaling_picture] if arguments.scaling_picture else [])]:
        print(f"wrote {path}")


def _write(plan: Plan, path: Path) -> None:
    if path.suffix == ".json":
        write_json(path, as_json(plan))
        return
    from megatron_mmbert.plan.render.languages_plot import plot_plan  # here, as Matplotlib takes a while to import

    plot_plan(plan, path)


def _gpu(arguments: argparse.Namespace) -> Gpu | None:
    given = {name: getattr(arguments, f"{name}_bandwidth") for name in ("link", "network")}
    for name, value in given.items():
        if value is not None and not (0 < value < math.inf):
            raise UserError(f"--{name}-bandwidth {value:g}: must be above 0")
        if value is not None and arguments.gpu is None:
            raise UserError(f"--{name}-bandwidth: belongs to a kind of GPU; give --gpu too")
    figure_file = arguments.scaling_picture
    if figure_file and figure_file.suffix != ".png":
        raise UserError(f"--scaling-picture {figure_file}: name a file that ends in .png")
    if arguments.gpu is None:
        if figure_file:
            raise UserError(f"--scaling-picture {figure_file}: shows a kind of GPU; give --gpu too")
        return None
    return gpu_of(arguments.gpu, *(None if value is None else value * 1e9 for value in given.values()))


def _machine(arguments: argparse.Namespace) -> Machine:
    if arguments.gpus < 1:
        raise UserError(f"--gpus {arguments.gpus}: must be at least 1")
    if (arguments.flops_per_second is None) != (arguments.mfu is None):
        raise UserError("--flops-per-second is a peak and --mfu the share of it that is reached; give both or neither")
    tokens = _rate("--tokens-per-second", arguments.tokens_per_second)
    peak = _rate("--flops-per-second", arguments.flops_per_second)
    for name, high in (("mfu", 1.0), ("watts", math.inf), ("price_per_hour", math.inf)):
        value = getattr(arguments, name)
        if value is not None and not (0 < value <= high and math.isfinite(value)):
            limit = f" and at most {high:g}" if high < math.inf else ""
            raise UserError(f"--{name.replace('_', '-')} {value:g}: must be above 0{limit}")
        if value is not None and tokens is None and peak is None:
            raise UserError(
                f"--{name.replace('_', '-')}: needs a speed; give --tokens-per-second, or --flops-per-second and --mfu"
            )
    sustained = None if peak is None else peak * arguments.mfu
    return Machine(arguments.gpus, tokens, sustained, arguments.watts, arguments.price_per_hour)


def _rate(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        rate = float(parse_count(text))
    except ValueError as error:
        raise UserError(f"{name} {text}: {error}") from None
    if rate <= 0:
        raise UserError(f"{name} {text}: must be above 0")
    return rate


if __name__ == "__main__":
    run_command(main)
