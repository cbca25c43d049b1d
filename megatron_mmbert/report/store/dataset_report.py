"""The report of each dataset of a store: exact counts, a sample of its text, its reading under a recipe, marks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from megatron_mmbert.data.store.manifest import ITEM_BYTES
from megatron_mmbert.data.store.reader import Dataset, Store
from megatron_mmbert.report.store.counts import Copies, Lengths, count_copies, count_lengths
from megatron_mmbert.report.store.marks import Mark, PhaseUse, fitting_share, marks_of
from megatron_mmbert.report.store.sample import Decoder, Excerpt, SampleSize, TextSample, excerpt, take_sample

Uses = Mapping[tuple[str, str], Sequence[PhaseUse]]
"""The reading of each (source, language) under a recipe, by phase; empty without one."""
_INDEX_BYTES = 16  # of a document: its length and checksum, read twice


@dataclass(frozen=True)
class DatasetReport:
    """All that is known of a dataset; ``repeated`` is the document that is there most often, None where none is."""

    dataset: Dataset
    lengths: Lengths
    copies: Copies
    repeated: Excerpt | None
    sample: TextSample
    uses: tuple[PhaseUse, ...]
    marks: tuple[Mark, ...]

    @property
    def bytes_per_token(self) -> float:
        return self.dataset.bytes / self.dataset.tokens

    @property
    def byte_share(self) -> float:
        """The share of the sample's tokens that are single bytes."""
        return self.sample.byte_tokens / self.sample.tokens

    @property
    def repeated_lines(self) -> float:
        """The share of the sample's lines that have come before."""
        return self.sample.repeated_lines / self.sample.lines if self.sample.lines else 0.0


def report_datasets(
    store: Store, decoder: Decoder, size: SampleSize, uses: Uses, progress: Callable[[int], None] = lambda done: None
) -> Iterator[DatasetReport]:
    """Yield the report of each dataset, in the store's order; ``progress`` is called with the bytes it read.

    Raises:
        UserError: an index or a sampled document is damaged.
    """
    for dataset in store.datasets:
        lengths, copies = count_lengths(store, dataset), count_copies(store, dataset)
        sample = take_sample(store, dataset, decoder, size)
        repeated = excerpt(store, dataset, decoder, copies.document, size) if copies.max_copies > 1 else None
        used = tuple(uses.get((dataset.source, dataset.language), ()))
        marks = marks_of(dataset, copies, sample, used)
        yield DatasetReport(dataset, lengths, copies, repeated, sample, used, marks)
        progress(bytes_to_read(store, dataset, size))


def bytes_to_read(store: Store, dataset: Dataset, size: SampleSize) -> int:
    """Return about how many bytes the report of a dataset reads."""
    sampled = min(dataset.tokens, size.documents * size.tokens)
    return _INDEX_BYTES * dataset.documents + ITEM_BYTES[store.manifest.dtype] * sampled


def as_json(report: DatasetReport) -> dict[str, Any]:
    """Return a report for programs; the keys are those of the file."""
    dataset, sample, copies = report.dataset, report.sample, report.copies
    return {
        "source": dataset.source,
        "language": dataset.language,
        "documents": dataset.documents,
        "tokens": dataset.tokens,
        "bytes": dataset.bytes,
        "bytes_per_token": round(report.bytes_per_token, 4),
        "lengths": asdict(report.lengths),
        "copies": {**asdict(copies), "share": round(copies.share, 6)},
        "sample": {
            "documents": sample.documents,
            "tokens": sample.tokens,
            "byte_share": round(report.byte_share, 6),
            "unknown_share": round(sample.unknown_tokens / sample.tokens, 6),
            "replacements": sample.replacements,
            "scripts": sample.scripts,
            "fitting_script_share": fitting_share(dataset.language, sample.scripts),
            "lines": sample.lines,
            "repeated_lines": sample.repeated_lines,
            "repeated_line_share": round(report.repeated_lines, 6),
        },
        "phases": [asdict(use) for use in report.uses],
        "marks": [asdict(mark) for mark in report.marks],
    }
