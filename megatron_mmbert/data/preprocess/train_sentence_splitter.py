"""Training the sentence splitter of each language of a corpus, on a bounded sample: the first text of the language."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby

from megatron_mmbert.data.text.documents import open_records, parse_record
from megatron_mmbert.data.text.records import Document, InputFile
from megatron_mmbert.data.text.sentence_splitter import TrainedSplitter, train_splitter
from megatron_mmbert.utils.process_pool import ordered_map

SAMPLE_CHARACTERS = 500_000
"""Most text that Punkt learns a language from."""

_MIXED_CHARACTERS = 50_000_000
"""Most text looked through for the languages of mixed files."""


def train_splitters(
    files: Sequence[InputFile], only: set[str | None] | None, workers: int
) -> dict[str, TrainedSplitter]:
    """Train a splitter for each language in ``files`` on its first documents there; languages come sorted.

    ``only``: leave out files of other languages. Files of mixed languages are looked through from the first, up to a
    bound; a language that first comes later has no entry, and the default rules.
    """
    if any(file.language is None for file in files):
        samples: Iterable[tuple[str, str]] = sorted(_mixed_samples(files).items())
    else:
        wanted = [file for file in files if only is None or file.language in only]
        samples = map(_sample, (list(some) for _, some in groupby(wanted, key=lambda file: file.language)))
    return dict(ordered_map(_train_one, samples, workers, _prepare_nothing))


def _sample(files: list[InputFile]) -> tuple[str, str]:
    """Return the language of ``files``, and the first text in them."""
    texts: list[str] = []
    left = SAMPLE_CHARACTERS
    for document in chain.from_iterable(map(_documents, files)):
        texts.append(document.text[:left])
        left -= len(document.text)
        if left <= 0:
            break
    return files[0].language or "", "\n\n".join(texts)


def _mixed_samples(files: Sequence[InputFile]) -> dict[str, str]:
    """Map each language to the first text of it."""
    texts: dict[str, list[str]] = {}
    left: dict[str, int] = {}
    looked_through = 0
    for document in chain.from_iterable(map(_documents, files)):
        language = document.language or ""
        wanted = left.setdefault(language, SAMPLE_CHARACTERS)
        if wanted > 0:
            texts.setdefault(language, []).append(document.text[:wanted])
            left[language] = wanted - len(document.text)
        looked_through += len(document.text)
        if looked_through > _MIXED_CHARACTERS:
            break
    return {language: "\n\n".join(some) for language, some in texts.items()}


def _documents(file: InputFile) -> Iterator[Document]:
    for number, record in open_records(file.path, file.fields, file.max_line_bytes):
        document = parse_record(file.path, number, record, file.fields)
        if isinstance(document, Document) and document.copies:
            yield document


def _train_one(sample: tuple[str, str]) -> tuple[str, TrainedSplitter]:
    return sample[0], train_splitter(sample[1])


def _prepare_nothing() -> None:
    pass
