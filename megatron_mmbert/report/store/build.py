"""Write the report of a token store: the page, its plots, and the numbers for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_mmbert.data.store.reader import Store
from megatron_mmbert.report.store.counts import MAX_COMPARED
from megatron_mmbert.report.store.dataset_report import (
    DatasetReport,
    Uses,
    as_json,
    bytes_to_read,
    report_datasets,
)
from megatron_mmbert.report.store.page import page
from megatron_mmbert.report.store.plots import plot_epochs, plot_languages, plot_lengths
from megatron_mmbert.report.store.sample import Decoder, SampleSize
from megatron_mmbert.tokenizer.load import Tokenizer
from megatron_mmbert.utils.files import write_json
from megatron_mmbert.utils.output_kinds import DATA_REPORT
from megatron_mmbert.utils.outputs import check_output, output_folder
from megatron_mmbert.utils.progress import ByteProgress

PAGE, SUMMARY = "index.html", "data_report.json"
LANGUAGES_PLOT, LENGTHS_PLOT, EPOCHS_PLOT = "languages.png", "lengths.png", "epochs.png"


@dataclass(frozen=True)
class RecipeUses:
    """The reading of a store under a recipe.

    Attributes:
        phases: their names, in the recipe's order.
        uses: the reading of each dataset.
        warnings: of the plan.
    """

    name: str
    phases: tuple[str, ...]
    uses: Uses
    warnings: tuple[str, ...]


def write_data_report(
    store: Store,
    tokenizer: Tokenizer,
    output: Path,
    size: SampleSize,
    recipe: RecipeUses | None = None,
    overwrite: bool = False,
) -> list[DatasetReport]:
    """Write the report of ``store`` as the folder ``output``; returns what it says of each dataset.

    Raises:
        UserError: ``output`` cannot be written, or the store is damaged.
    """
    inputs = (store.path, tokenizer.path)
    check_output(output, DATA_REPORT, inputs, overwrite)
    total = sum(bytes_to_read(store, dataset, size) for dataset in store.datasets)
    with output_folder(output, DATA_REPORT, inputs, overwrite) as staging:
        with ByteProgress("data-report", total) as progress:
            uses: Uses = recipe.uses if recipe else {}
            reports = list(report_datasets(store, Decoder(tokenizer), size, uses, progress.add))
        phases = recipe.phases if recipe else ()
        plots = {"tokens by language": staging / LANGUAGES_PLOT, "documents by length": staging / LENGTHS_PLOT}
        plot_languages(reports, staging / LANGUAGES_PLOT)
        plot_lengths(reports, staging / LENGTHS_PLOT)
        if recipe:
            plots["epochs by phase"] = staging / EPOCHS_PLOT
            plot_epochs(reports, phases, staging / EPOCHS_PLOT)
        heading = (f"Token store {store.path}", _totals(store), _notes(store, size, recipe))
        warnings = recipe.warnings if recipe else ()
        (staging / PAGE).write_text(page(*heading, warnings, phases, reports, plots), encoding="utf-8")
        write_json(staging / SUMMARY, _summary(store, size, recipe, reports))
    return reports


def summary_text(reports: Sequence[DatasetReport], max_listed: int = 10) -> str:
    """Return the marks for a terminal: how many of each kind, and the first of them."""
    marked = [report for report in reports if report.marks]
    kinds = Counter(mark.kind for report in marked for mark in report.marks)
    counts = ", ".join(
        f"{kind} {count:,}" for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    )
    lines = [f"{len(marked):,} of {len(reports):,} datasets are marked{': ' if counts else ''}{counts}"]
    for report in marked[:max_listed]:
        name = f"{report.dataset.source}/{report.dataset.language}"
        lines.append(f"{name}: {'; '.join(mark.text for mark in report.marks)}")
    if len(marked) > max_listed:
        lines.append(f"... and {len(marked) - max_listed:,} more")
    return "\n".join(lines)


def _totals(store: Store) -> str:
    totals = store.manifest.totals()
    languages = len({dataset.language for dataset in store.datasets})
    return (
        f"{languages:,} languages, sources: {', '.join(store.sources)}; {totals['documents']:,} documents, "
        f"{totals['tokens']:,} tokens, {totals['bytes'] / totals['tokens']:.2f} bytes per token"
    )


def _notes(store: Store, size: SampleSize, recipe: RecipeUses | None) -> list[str]:
    notes = [
        "Tokens, documents, bytes, lengths and duplicates are counted over all documents, from the index; equal "
        "documents have equal lengths and checksums of their ids. Of a language with more than "
        f"{MAX_COMPARED:,} documents the share of duplicates is that of a part of them.",
        f"Scripts, byte fallback, unknown tokens and repeated lines are those of a sample: the first {size.tokens:,} "
        f"tokens of {size.documents:,} documents of each language, or of all if there are fewer (seed {size.seed}).",
        f"Made with the tokenizer {store.manifest.tokenizer.path} ({store.tokenizer_fingerprint[:12]}).",
    ]
    if store.manifest.duplicates:
        notes.append(f"{store.manifest.duplicates:,} duplicate documents were left out when the store was made.")
    if recipe:
        notes.append(f"Epochs are those of the recipe {recipe.name}, from its plan.")
    return notes


def _summary(
    store: Store, size: SampleSize, recipe: RecipeUses | None, reports: Sequence[DatasetReport]
) -> dict[str, object]:
    return {
        "format": "megatron_mmbert data report",
        "store": str(store.path),
        "tokenizer_fingerprint": store.tokenizer_fingerprint,
        "sample": {"documents": size.documents, "tokens": size.tokens, "seed": size.seed},
        "recipe": recipe.name if recipe else None,
        "totals": store.manifest.totals(),
        "datasets": [as_json(report) for report in reports],
    }
