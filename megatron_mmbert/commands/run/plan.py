"""Plan what a recipe would do, without doing it: steps, languages and how often they are read, arithmetic, time, cost.

Reads the recipe's stores as far as they exist. Before there are any, --token-counts takes a TSV with the columns
language (or code), tokens and, if wanted, source. What training would refuse for lack of text is a warning here. With
--gpu, it chooses a layout and forecasts 1 to 4,096 GPUs of that kind. With --downloads, it prints a shell script that
downloads the published sources of the recipe, its languages alone, and makes a store of each.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_mmbert.commands.arguments import Real, Whole, add_overrides, add_recipe, add_renamed
from megatron_mmbert.plan.gpus import KINDS, Gpu, gpu_of
from megatron_mmbert.utils.bounds import MAX_RANKS
from megatron_mmbert.utils.errors import UserError

if TYPE_CHECKING:
    from megatron_mmbert.plan.cost import Machine
    from megatron_mmbert.plan.run_plan import Plan

EXAMPLES = """
mmbert plan recipe.yaml
mmbert plan recipe.yaml --token-counts languages.tsv --gpus 64 --tokens-per-second 100k
mmbert plan recipe.yaml --gpus 64 --flops-per-second 989T --mfu 0.4 --watts 1000 --price-per-hour 2.5
mmbert plan recipe.yaml --gpus 64 --gpu h100 --mfu 0.4
mmbert plan recipe.yaml --downloads corpora > get.sh
mmbert plan recipe.yaml --output shares.png --output plan.json phases.pretrain.temperature=0.5
"""
_ENDINGS = (".png", ".json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    add_recipe(parser)
    add = parser.add_argument
    add("--token-counts", type=Path, metavar="TSV", help="plan with these counts, not with the stores")
    add("--tokens-column", default="tokens", metavar="NAME", help="its column of counts (%(default)s)")
    positive, rate = Real(0.0, 1e6, above=True), Real(0.0, 1e21, above=True, counts=True)
    help_epochs = "warn above (default %(default)g)"
    add_renamed(parser, "--most-epochs", "--max-epochs", type=positive, default=4.0, metavar="E", help=help_epochs)
    add("--all", action="store_true", help="list all languages of every phase")
    add("--output", type=Path, action="append", default=[], metavar="FILE", help=".png or .json")
    help_downloads = "print commands that download the recipe's published sources to DIR, and nothing else"
    add("--downloads", type=Path, metavar="DIR", help=help_downloads)
    add("--gpus", type=Whole(1, MAX_RANKS), default=1, metavar="N", help="GPUs that train (default %(default)s)")
    add("--gpu", metavar="KIND", help=f"choose a layout and forecast scaling: {', '.join(KINDS)}")
    help_plot = "draw the forecast; with --gpu"
    add_renamed(parser, "--scaling-picture", "--scaling-plot", type=Path, metavar="PNG", help=help_plot)
    add("--link-bandwidth", type=positive, metavar="GB/S", help="of --gpu in its node, one direction")
    add("--network-bandwidth", type=positive, metavar="GB/S", help="of --gpu to other nodes")
    speed = parser.add_mutually_exclusive_group()
    speed.add_argument("--tokens-per-second", type=rate, metavar="X", help="speed of one GPU in every phase: 100k")
    help_peak = "peak of one GPU: 989T; say how much of it is reached:"
    speed.add_argument("--flops-per-second", type=rate, metavar="F", help=help_peak)
    add("--mfu", type=Real(0.0, 1.0, above=True), metavar="U", help="share of the peak that training reaches: 0.4")
    add("--watts", type=positive, help="power of one GPU with its part of the host")
    add("--price-per-hour", type=positive, metavar="P", help="price of one GPU")
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print the plan, and write what is asked for."""
    gpu = _gpu(arguments)
    machine = _machine(arguments, gpu)
    _check_outputs(arguments)
    from megatron_mmbert.config.loading import load_recipe
    from megatron_mmbert.plan.gpu_forecast import forecast_gpus
    from megatron_mmbert.plan.render.memory_table import memory_table
    from megatron_mmbert.plan.render.plan_tables import plan_text
    from megatron_mmbert.plan.render.scaling_tables import forecast_text
    from megatron_mmbert.plan.run_plan import make_plan

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if arguments.downloads is not None:
        _check_alone(arguments)
        from megatron_mmbert.plan.sources.downloads import plan_downloads
        from megatron_mmbert.plan.sources.script import download_script

        print(download_script(plan_downloads(recipe, arguments.downloads)))
        return
    text = (arguments.max_epochs, arguments.token_counts, arguments.tokens_column)
    forecast = forecast_gpus(recipe, machine, gpu, *text) if gpu else None
    recipe = forecast.recipe if forecast else recipe
    plan = make_plan(recipe, machine, *text)
    for path in arguments.output:
        _write(plan, path)
    if forecast and arguments.scaling_plot:
        from megatron_mmbert.plan.render.scaling_plot import plot_scaling

        points = {each.phase.name: each.points for each in forecast.phases}
        plot_scaling(recipe.name, points, forecast.gpu, arguments.scaling_plot)
    print(plan_text(plan, arguments.all))
    print(f"\n{memory_table(recipe, arguments.gpus, gpu.memory if gpu else None)}")
    if forecast:
        print(f"\n{forecast_text(forecast)}")
    for path in [*arguments.output, *([arguments.scaling_plot] if arguments.scaling_plot else [])]:
        print(f"wrote {path}")


def _write(plan: Plan, path: Path) -> None:
    from megatron_mmbert.plan.run_plan import as_json
    from megatron_mmbert.utils.files import put_json
    from megatron_mmbert.utils.output_kinds import PLAN
    from megatron_mmbert.utils.outputs import output_file

    if path.suffix == ".json":
        with output_file(path, PLAN, overwrite=True) as staging:
            put_json(staging, as_json(plan))
        return
    from megatron_mmbert.plan.render.languages_plot import plot_plan  # here, as Matplotlib takes a while to import

    plot_plan(plan, path)


def _check_outputs(arguments: argparse.Namespace) -> None:
    from megatron_mmbert.utils.output_kinds import PLAN, PNG_IMAGE
    from megatron_mmbert.utils.outputs import check_output

    for path in arguments.output:
        if path.suffix not in _ENDINGS:
            raise UserError(f"--output {path}: name a file that ends in {' or '.join(_ENDINGS)}")
        kind = PLAN if path.suffix == ".json" else PNG_IMAGE
        check_output(path, kind, (arguments.recipe,), overwrite=True)


def _check_alone(arguments: argparse.Namespace) -> None:
    """Raise UserError where --downloads stands beside what belongs to a plan, which is not made."""
    for flag in ("output", "token_counts", "gpu", "tokens_per_second", "flops_per_second"):
        if getattr(arguments, flag):
            raise UserError(f"--downloads: prints commands and makes no plan; leave out --{flag.replace('_', '-')}")


def _gpu(arguments: argparse.Namespace) -> Gpu | None:
    """Return the kind of GPU that is named, None for none, and check what belongs to one."""
    given = {name: getattr(arguments, f"{name}_bandwidth") for name in ("link", "network")}
    for name, value in given.items():
        if value is not None and arguments.gpu is None:
            raise UserError(f"--{name}-bandwidth: belongs to a kind of GPU; give --gpu too")
    figure_file = arguments.scaling_plot
    if figure_file and figure_file.suffix != ".png":
        raise UserError(f"--scaling-plot {figure_file}: name a file that ends in .png")
    if arguments.gpu is None:
        if figure_file:
            raise UserError(f"--scaling-plot {figure_file}: shows a kind of GPU; give --gpu too")
        return None
    return gpu_of(arguments.gpu, *(None if value is None else value * 1e9 for value in given.values()))


def _machine(arguments: argparse.Namespace, gpu: Gpu | None) -> Machine:
    """Return the GPUs that train; a kind that is named, with --mfu, has the speed of its datasheet."""
    from megatron_mmbert.plan.cost import Machine

    tokens, peak, mfu = arguments.tokens_per_second, arguments.flops_per_second, arguments.mfu
    if gpu and mfu is not None and tokens is None and peak is None:
        peak = float(round(gpu.peak))
    if (peak is None) != (mfu is None):
        raise UserError("--flops-per-second is a peak and --mfu the share of it that is reached; give both or neither")
    sustained = None if peak is None else peak * mfu
    machine = Machine(arguments.gpus, tokens, sustained, arguments.watts, arguments.price_per_hour)
    if gpu and tokens is None and sustained is None:
        raise UserError(f"--gpu {gpu.name}: needs a speed; give --tokens-per-second, or --mfu")
    return machine
