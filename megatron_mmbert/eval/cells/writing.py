"""Writing of an evaluation's tables beside its cells; any shard does so, with what is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from megatron_mmbert.eval.cells.plan import Work
from megatron_mmbert.eval.cells.reports import html, markdown, summary_lines
from megatron_mmbert.eval.cells.store import Store
from megatron_mmbert.eval.cells.summary import summarize
from megatron_mmbert.eval.probes.subjects import MODEL
from megatron_mmbert.utils.files import atomic_file, write_json

RESULTS, PAGE, HTML = "results.json", "report.md", "report.html"


def write_results(
    works: Sequence[Work], store: Store, suite: str, tier: str, unable: Mapping[tuple[str, str], str]
) -> list[str]:
    """Write ``results.json``, ``report.md`` and ``report.html``; returns a line for each task, setting and model."""
    subjects = {work.subject.label: work.subject.kind for work in works}
    models = [label for label, kind in subjects.items() if kind == MODEL]
    results = {
        "suite": suite,
        "tier": tier,
        "models": models,
        "subjects": [*models, *(label for label in subjects if label not in models)],
        "unable": [{"model": model, "task": task, "reason": reason} for (model, task), reason in unable.items()],
        **summarize(works, store),
    }
    write_json(store.folder / RESULTS, results)
    for name, text in ((PAGE, markdown(results)), (HTML, html(results))):
        with atomic_file(store.folder / name) as staging:
            staging.write_text(text, encoding="utf-8")
    several = len(models) > 1
    return [f"{row['model']}: {summary_lines(row)}" if several else summary_lines(row) for row in results["rows"]]
