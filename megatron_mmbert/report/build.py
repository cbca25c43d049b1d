"""Write a run's report: two plots, the numbers for programs, and a page with the tables."""

from __future__ import annotations

from pathlib import Path

from megatron_mmbert.report.run_plot import plot_run
from megatron_mmbert.report.run_reader import Run
from megatron_mmbert.report.scores_plot import plot_scores
from megatron_mmbert.report.tables import summary, tables_text
from megatron_mmbert.utils.files import write_json
from megatron_mmbert.utils.output_kinds import REPORT
from megatron_mmbert.utils.outputs import output_folder

RUN_PLOT, SCORES_PLOT = "run.png", "bits_per_byte.png"
SUMMARY, PAGE = "summary.json", "report.md"


def write_report(run: Run, folder: Path) -> list[Path]:
    """Write the report as ``folder``, in the place of an older one; returns its files.

    Raises:
        UserError: something else is there.
    """
    with output_folder(folder, REPORT, overwrite=True) as staging:
        plot_run(run, staging / RUN_PLOT)
        plot_scores(run, staging / SCORES_PLOT)
        write_json(staging / SUMMARY, summary(run))
        (staging / PAGE).write_text(_page(run), encoding="utf-8")
    return [folder / name for name in (RUN_PLOT, SCORES_PLOT, SUMMARY, PAGE)]


def _page(run: Run) -> str:
    return (
        f"# {run.name}\n\n"
        f"![loss, learning rate, mask ratio, temperature and languages]({RUN_PLOT})\n\n"
        f"```\n{tables_text(run, max_languages=None)}\n```\n\n"
        f"![held-out bits per byte]({SCORES_PLOT})\n"
    )
