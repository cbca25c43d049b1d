"""Marks on what is suspicious in a dataset, each a sentence with its figures; nothing is decided by them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from megatron_mmbert.data.store.reader import Dataset
from megatron_mmbert.report.store.counts import Copies
from megatron_mmbert.report.store.sample import TextSample
from megatron_mmbert.report.store.scripts import expected_scripts

MIN_FITTING = 0.5
"""The share of letters in the code's own scripts."""
MIN_LETTERS = 50
"""Letters of a sample that says something about scripts."""
MAX_BYTE_SHARE, MAX_UNKNOWN_SHARE, MAX_REPLACED_SHARE = 0.1, 0.001, 0.001
MAX_DUPLICATES, MAX_REPEATED_LINES = 0.1, 0.3
MAX_COPIES, MIN_COPIES, MAX_COPIES_SHARE = 1000, 3, 0.01
"""One document is there too often from ``MAX_COPIES`` on, or from ``MIN_COPIES`` on if that is such a share of all."""
MIN_LINES = 50
MAX_EPOCHS = 4.0


@dataclass(frozen=True)
class Mark:
    """A suspicion: its kind, by which the page counts and filters, and its sentence."""

    kind: str
    text: str


@dataclass(frozen=True)
class PhaseUse:
    """The reading of a dataset in a phase: its share of the phase's tokens, and how often it is read.

    Attributes:
        run_epochs: passes by the end of the phase, those of the phases that it starts from included.
    """

    phase: str
    share: float
    epochs: float
    run_epochs: float


def marks_of(dataset: Dataset, copies: Copies, sample: TextSample, uses: Iterable[PhaseUse]) -> tuple[Mark, ...]:
    """Return the marks of a dataset, the gravest kinds first."""
    return (
        *_script_marks(dataset.language, sample),
        *_token_marks(sample),
        *_copy_marks(dataset, copies),
        *_line_marks(sample),
        *_epoch_marks(uses),
    )


def fitting_share(language: str, scripts: dict[str, int]) -> float | None:
    """Return the share of letters in the scripts of the code; None where the code names none, or there are too few."""
    expected, letters = expected_scripts(language), sum(scripts.values())
    if not expected or letters < MIN_LETTERS:
        return None
    return sum(count for script, count in scripts.items() if script in expected) / letters


def _script_marks(language: str, sample: TextSample) -> Iterator[Mark]:
    fitting = fitting_share(language, sample.scripts)
    if fitting is not None and fitting < MIN_FITTING:
        main, letters = next(iter(sample.scripts)), sum(sample.scripts.values())
        yield Mark(
            "script",
            f"the code says {language}, and {sample.scripts[main] / letters:.0%} of the letters are {main}",
        )
    if sample.characters and sample.replacements / sample.characters > MAX_REPLACED_SHARE:
        share = sample.replacements / sample.characters
        yield Mark("damaged characters", f"{share:.2%} of the characters are U+FFFD, the sign of damaged text")


def _token_marks(sample: TextSample) -> Iterator[Mark]:
    if sample.byte_tokens > MAX_BYTE_SHARE * sample.tokens:
        share = sample.byte_tokens / sample.tokens
        yield Mark("byte fallback", f"{share:.1%} of the tokens are single bytes of characters the vocabulary lacks")
    if sample.unknown_tokens > MAX_UNKNOWN_SHARE * sample.tokens:
        yield Mark(
            "unknown", f"{sample.unknown_tokens / sample.tokens:.2%} of the tokens are unknown: their text is lost"
        )


def _copy_marks(dataset: Dataset, copies: Copies) -> Iterator[Mark]:
    share = copies.max_copies / dataset.documents
    if copies.max_copies >= MAX_COPIES or (copies.max_copies >= MIN_COPIES and share >= MAX_COPIES_SHARE):
        yield Mark("repeated document", f"one document is there {copies.max_copies:,} times, {share:.1%} of all")
    if copies.share > MAX_DUPLICATES:
        yield Mark("duplicates", f"{copies.share:.1%} of the documents are equal to an earlier one")


def _line_marks(sample: TextSample) -> Iterator[Mark]:
    if sample.lines >= MIN_LINES and sample.repeated_lines > MAX_REPEATED_LINES * sample.lines:
        yield Mark("repeated lines", f"{sample.repeated_lines / sample.lines:.0%} of the lines have come before")


def _epoch_marks(uses: Iterable[PhaseUse]) -> Iterator[Mark]:
    longest = max(uses, key=lambda use: use.run_epochs, default=None)
    if longest is not None and longest.run_epochs > MAX_EPOCHS:
        yield Mark("epochs", f"read {longest.run_epochs:.3g} times by the end of phase {longest.phase}")
