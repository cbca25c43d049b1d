"""Compares parallel layouts with one process, from the same weights on the same packs; writes one JSON of all rows.

    python tests/layouts/compare.py RECIPE.yaml --rows full --steps 25 --output FOLDER [--publish] [key.path=value ...]

``--publish`` also writes docs/results/parallel.json and parallel.md. Ends with status 1 if a row misses its bound.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import results
from support import layouts
from support.layouts import BF16, FP32, Distance, Layout, Result, distance
from support.train_layouts import train
from table import markdown

Run = Callable[[Layout], Result]


def rows(kind: str, steps: int, run: Run) -> Iterator[dict[str, Any]]:
    """Every comparison, as it is made."""
    known: dict[Layout, Result] = {}

    def once(layout: Layout) -> Result:
        if layout not in known:
            known[layout] = run(layout)
        return known[layout]

    for layout in layouts.FULL if kind == "full" else layouts.CI:
        bound = BF16 if layout.dtype == "bf16" else FP32
        yield _row("equal", layout, distance(once(layout), once(layout.reference)), bound, once(layout))
    narrow = Layout(dtype="bf16")
    yield _row("bf16", narrow, distance(once(narrow), once(Layout())), None, once(narrow))
    for layout in layouts.CONTROLS:
        found = once(layout)
        yield _row("control", layout, distance(found, once(layout.reference)), FP32, found)
    for layout in layouts.REPEATED[kind]:
        yield _exact("repeated", layout, once(layout), run(layout))
    for layout in layouts.RESUMED[kind]:
        resumed = replace(layout, resume_at=steps * 2 // 5)
        yield _exact("resumed", resumed, once(layout), run(resumed))


def _row(kind: str, layout: Layout, found: Distance, bound: Distance | None, result: Result) -> dict[str, Any]:
    far = max((asdict(found)[name] / limit for name, limit in asdict(bound).items()), default=0.0) if bound else 0.0
    sound = result.copies_agree and far <= 1 if kind == "equal" else far >= layouts.CONTROL_FACTOR
    return {
        "kind": kind,
        "layout": layout.name,
        "ranks": layout.ranks,
        **asdict(found),
        "of_bound": far,
        "holds": bool(sound) if bound else True,
        "seconds": round(result.seconds, 1),
        "losses": [result.losses[0], result.losses[-1]],
        "largest_rms": max(result.rms),
    }


def _exact(kind: str, layout: Layout, first: Result, second: Result) -> dict[str, Any]:
    same = (first.losses, first.digests) == (second.losses, second.digests)
    row = {"kind": kind, "layout": layout.name, "ranks": layout.ranks, "holds": same}
    return row | {"seconds": round(second.seconds, 1)}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--rows", choices=("full", "ci"), default="full")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value")
    return parser.parse_intermixed_args()


def main() -> int:
    arguments = parse()
    started, found = time.perf_counter(), []

    def run(layout: Layout) -> Result:
        return train(layout, arguments.recipe, arguments.steps, arguments.output / "ranks", tuple(arguments.overrides))

    for row in rows(arguments.rows, arguments.steps, run):
        found.append(row)
        sign = "" if row["holds"] else " MISSED"
        numbers = " ".join(f"{name} {row[name]:.1e}" for name in ("loss", "grad_norm", "parameters") if name in row)
        print(f"{row['kind']:<9} {row['layout']:<58} {numbers or 'bits'}{sign}", flush=True)
    seconds = round(time.perf_counter() - started)
    figures = {"steps": arguments.steps, "seconds": seconds, "rows": found}
    figures["machine"] = results.machine("torch", "megatron-core")
    (arguments.output / "rows.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if arguments.publish:
        results.save("parallel", figures)
        (results.RESULTS / "parallel.md").write_text(markdown(figures), encoding="utf-8")
    missed = [row["layout"] for row in found if not row["holds"]]
    print(f"{len(found)} rows in {seconds} s; missed: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
