"""Score encoders on the tasks of a suite, with frozen vectors: how good is a model, in which languages?

MODEL is a folder that convert-to-hf wrote, any encoder that transformers opens, or the name of one on the hub. Beside
every score stand chance, the most frequent label, character n-grams, and the same network with random weights. All
choices are made on dev data. Results lie in --output, a file for each (model, task, setting, language, seed): the same
command again computes what is missing or has changed, and several processes share the work by --shard.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_mmbert.commands.arguments import Whole
from megatron_mmbert.inference.options import DTYPE_NAMES

if TYPE_CHECKING:
    from megatron_mmbert.eval.cells.run import Done
    from megatron_mmbert.eval.tasks.data import TaskData

EXAMPLES = """
mmbert evaluate runs/mine/hf --suite local --output runs/mine/evaluation
mmbert evaluate runs/mine/hf FacebookAI/xlm-roberta-base --suite suite.yaml --data data --output scores --budget 10m
mmbert evaluate runs/mine/hf --suite local --output scores --shard 1/4
"""
_UNITS = {"s": 1, "m": 60, "h": 3600}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL", help="folder of an exported model, or a name of the hub")
    add("--suite", required=True, metavar="NAME|FILE.yaml", help="tasks: local, or a file of your own")
    add("--tier", choices=("probe",), default="probe", help="frozen vectors and logistic regression (%(default)s)")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of results; what is there is kept")
    add("--data", type=Path, metavar="DIR", help="folder of the tasks' data (the first of the suite's that exists)")
    add("--tasks", nargs="+", default=[], metavar="NAME", help="of the suite (all)")
    add("--languages", nargs="+", default=[], metavar="NAME", help="as the tasks' files call them (all)")
    add("--seeds", type=Whole(1, 100), metavar="N", help="training samples to draw (the tasks' own number)")
    add("--shard", type=_shard, default=(1, 1), metavar="I/N", help="do the I-th of N parts of the work")
    add(
        "--budget",
        type=_duration,
        metavar="TIME",
        help="do what fits into 90s, 10m or 2h; the same command does the rest",
    )
    add(
        "--backend",
        choices=("auto", "packed", "padded"),
        default="auto",
        help="ours packed, or transformers (%(default)s)",
    )
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (%(default)s)")
    add("--dtype", choices=DTYPE_NAMES, default="fp32", help="of the computation (%(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Fill the cells of the suite, and write the tables of all that are there."""
    from megatron_mmbert.eval.cells.plan import plan
    from megatron_mmbert.eval.cells.run import run as run_works
    from megatron_mmbert.eval.cells.store import VECTORS, Store
    from megatron_mmbert.eval.cells.writing import write_results
    from megatron_mmbert.eval.encoders.opening import find_model
    from megatron_mmbert.eval.probes.linear import check_installed
    from megatron_mmbert.eval.probes.subjects import ModelSubject, NGrams, Vectors
    from megatron_mmbert.eval.tasks.data import TaskData
    from megatron_mmbert.eval.tasks.loading import chosen_tasks, data_folder, load_suite
    from megatron_mmbert.kernels import fp32_matmul

    check_installed()
    suite, tasks = load_suite(arguments.suite)
    folder = data_folder(suite, arguments.data)
    data = [TaskData(task, folder) for task in chosen_tasks(tasks, arguments.tasks)]
    data = _here(data) or data
    models = [find_model(name, arguments.backend) for name in dict.fromkeys(arguments.models)]
    store = Store(arguments.output)
    vectors = Vectors(arguments.output / VECTORS)
    opened = [(model, seed) for seed in (None, 0) for model in models]
    subjects = [ModelSubject(model, arguments.device, arguments.dtype, vectors, seed) for model, seed in opened]
    works = plan(data, [NGrams(), *subjects], arguments.languages, arguments.seeds)
    store.open([folder, *(model.folder for model in models)])
    fp32_matmul.use_fastest()
    number, of = arguments.shard
    done = run_works(works[number - 1 :: of], store, arguments.budget, _say)
    lines = write_results(works, store, suite.name, arguments.tier, done.unable)
    print("\n".join([*lines, _counted(done), f"wrote {arguments.output}: results.json, report.md, report.html"]))


def _here(data: list[TaskData]) -> list[TaskData]:
    """Return the tasks whose data are here, and say how to get those of the others."""
    found = []
    for each in data:
        remedy = each.how_to_get()
        if remedy is None:
            found.append(each)
        else:
            _say(f"{each.task.name}: left out, as its data are not here; {remedy}")
    return found


def _counted(done: Done) -> str:
    """Return what the run did in a sentence."""
    said = f"{done.computed:,} results computed, {done.resumed:,} were there"
    if done.over_budget:
        said += f", {done.over_budget:,} left for want of time: run the same command again"
    return said


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _duration(text: str) -> float:
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([smh])", text)
    if match is None or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; write 90s, 10m or 2h")
    return float(match[1]) * _UNITS[match[2]]


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a part; write I/N, such as 1/4 to 4/4")
    return int(match[1]), int(match[2])
