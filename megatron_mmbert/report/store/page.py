"""The HTML page: one file that loads nothing, in which no text of a document can be more than text."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from megatron_mmbert.report.store.dataset_report import DatasetReport
from megatron_mmbert.report.store.sample import readable
from megatron_mmbert.utils.files import to_json

_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
"""Characters by which JSON in a page could end its element, as JSON writes them too."""


def page(
    title: str,
    totals: str,
    notes: Sequence[str],
    warnings: Sequence[str],
    phases: Sequence[str],
    reports: Sequence[DatasetReport],
    plots: Mapping[str, Path],
) -> str:
    """Return the page.

    Args:
        title, totals, notes: its heading, and sentences on what was counted.
        warnings: of the recipe's plan.
        phases: names of phases, in the order of each report's uses.
        plots: PNG files by what they show; they become part of the page.
    """
    kinds = Counter(kind for report in reports for kind in {mark.kind for mark in report.marks})
    data = {
        "title": readable(title),
        "totals": totals,
        "notes": [readable(note) for note in notes],
        "warnings": [readable(warning) for warning in warnings],
        "phases": list(phases),
        "kinds": sorted(kinds.items(), key=lambda item: (-item[1], item[0])),
        "rows": [_row(report, phases) for report in reports],
    }
    style, script = (files(__package__).joinpath(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        policy=_policy(style, script),
        style=style,
        script=script,
        plots="".join(_image(alt, path) for alt, path in plots.items()),
        data=embedded(data),
    )


def embedded(data: Any) -> str:
    """Return ``data`` as JSON in ASCII that has none of HTML's characters, so that it ends no element."""
    text = to_json(data)
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text


def _policy(style: str, script: str) -> str:
    """Return the page's content security policy: its own script and style, images in it, and nothing from outside."""
    return f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}"


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _image(alt: str, path: Path) -> str:
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{alt}" src="data:image/png;base64,{content}">'


def _row(report: DatasetReport, phases: Sequence[str]) -> dict[str, Any]:
    dataset, sample, lengths = report.dataset, report.sample, report.lengths
    letters = sum(sample.scripts.values())
    epochs = {use.phase: use.run_epochs for use in report.uses}
    repeated = report.repeated
    return {
        "source": readable(dataset.source),
        "language": readable(dataset.language),
        "script": next(iter(sample.scripts), ""),
        "tokens": dataset.tokens,
        "documents": dataset.documents,
        "bytesPerToken": round(report.bytes_per_token, 3),
        "median": lengths.median,
        "longest": lengths.longest,
        "byteShare": round(report.byte_share, 5),
        "unknownShare": round(sample.unknown_tokens / sample.tokens, 5),
        "duplicates": round(report.copies.share, 5),
        "repeatedLines": round(report.repeated_lines, 5),
        **{f"phase{number}": _rounded(epochs.get(phase)) for number, phase in enumerate(phases)},
        "marks": [[mark.kind, mark.text] for mark in report.marks],
        "histogram": lengths.histogram,
        "scripts": [[script, round(count / letters, 4)] for script, count in sample.scripts.items()],
        "repeated": [report.copies.max_copies, repeated.document, readable(repeated.text)] if repeated else None,
        "lines": [[readable(line.text), line.documents] for line in sample.common_lines],
        "excerpts": [[excerpt.document, readable(excerpt.text)] for excerpt in sample.excerpts],
    }


def _rounded(epochs: float | None) -> float | None:
    return None if epochs is None else round(epochs, 4)
