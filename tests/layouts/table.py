"""The comparison of layouts as a page of the results."""

from __future__ import annotations

from typing import Any

_TITLES = {
    "equal": "Layouts against one process",
    "bf16": "One process in bf16 against one process in fp32",
    "control": "Negative controls: one thing left out",
    "repeated": "Run twice: bit for bit the same",
    "resumed": "Saved, loaded into new objects, gone on: bit for bit the uninterrupted run",
}
_WORDS = """tp, pp, dp: tensor, pipeline, data parallel ranks; vp: chunks of an interleaved pipeline; sp: sequence
parallelism; zero: distributed optimizer; overlap: gradients reduced during backward in small buckets (with zero,
weights gathered during forward). Differences of loss and gradient norm are the largest of all steps, relative; of
parameters the largest of any element at the end. Bounds: fp32 1e-5 for each of the three; bf16 1e-3, 1e-2 and 2^-6:
a product cut over tensor-parallel ranks is rounded to bf16 before it is summed, so a layout may change a bf16 run about
as much as bf16 changes the fp32 one. A control must exceed a bound ten times. Where the largest RMS of StableAdamW
exceeds 1 it steers the step. The learning rate warms up from 0, as at the start of a run: at a full rate of 1e-3 from
the first step, which moves every element by its gradient's sign alone, single elements whose gradient is rounding noise
come out 3e-5 apart."""


def markdown(figures: dict[str, Any]) -> str:
    """The page."""
    machine, rows = figures["machine"], figures["rows"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        "# Every parallel layout trains the same",
        "",
        f"{machine['date']}, {machine['cpus']} CPU cores (gloo), {versions}: {figures['steps']} steps of 8 packs of "
        "the sample corpus, 7 layers, StableAdamW, warm-up to 4e-4, dropout 0.1, every layout from the same weights;",
        "",
        "```bash",
        "bash tests/layouts/run.sh",
        "```",
        "",
        f"took {figures['seconds']} s.",
        "",
        " ".join(_WORDS.split("\n")),
    ]
    for kind, title in _TITLES.items():
        lines += ["", f"## {title}", "", *_table([row for row in rows if row["kind"] == kind])]
    return "\n".join(lines) + "\n"


def _table(rows: list[dict[str, Any]]) -> list[str]:
    if "loss" not in rows[0]:
        lines = ["| layout | ranks | same bits |", "|---|---|---|"]
        return lines + [f"| {row['layout']} | {row['ranks']} | {'yes' if row['holds'] else 'NO'} |" for row in rows]
    lines = ["| layout | ranks | loss | gradient norm | parameters | largest RMS | as it should be |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in rows:
        numbers = " | ".join(f"{row[name]:.1e}" for name in ("loss", "grad_norm", "parameters"))
        sound = "yes" if row["holds"] else "NO"
        lines.append(f"| {row['layout']} | {row['ranks']} | {numbers} | {row['largest_rms']:.2f} | {sound} |")
    return lines
