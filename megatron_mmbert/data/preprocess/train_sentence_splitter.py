"""Learning where sentences end in each language of a corpus, from a bounded sample: the first text there is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby

from megatron_mmbert.data.preprocess.tokenize_worker import InputFile
from megatron_mmbert.data.text.documents import open_records, parse_record
from megatron_mmbert.data.text.records import Document
from megatron_mmbert.data.text.sentence_splitter import TrainedSplitter, learn
from megatron_mmbert.utils.process_pool import ordered_map

SAMPLE_CHARACTERS = 500_000
"""Text that Punkt learns a language from, at most; the first there is."""

_MIXED_CHARACTERS = 50_000_000
"""Text looked through, at most, for the languages of mixed files."""


def learn_languages(
    files: Sequence[InputFile], only: set[str | None] | None, workers: int
) -> dict[str, TrainedSplitter]:
    """What Punkt learns of each language in ``files`` from its first documents there, languages sorted.

    ``only``: leave out files of other languages. Files of mixed languages are looked through from the first, up to a
    bound; a language that first comes later has no entry, and the default rules.
    """
    if any(file.language is None for file in files):
        samples: Iterable[tuple[str, str]] = sorted(_mixed_samples(files).items())
    else:
        wanted = [file for file in files if only is None or file.language in only]
        samples = map(_sample, (list(some) for _, some in groupby(wanted, key=lambda file: file.language)))
    return dict(ordered_map(_learn_one, samples, workers, _nothing))


def _sample(files: list[InputFile]) -> tuple[str, str]:
    """The language of ``files``, and the first text in them."""
    texts: list[str] = []
    room = SAMPLE_CHARACTERS
    for document in chain.from_iterable(map(_documents, files)):
        texts.append(document.text[:room])
        room -= len(document.text)
        if room <= 0:
            break
    return files[0].language or "", "\n\n".join(texts)


def _mixed_samples(files: Sequence[InputFile]) -> dict[str, str]:
    """Language to the first text of it."""
    texts: dict[str, list[str]] = {}
    room: dict[str, int] = {}
    looked_through = 0
    for document in chain.from_iterable(map(_documents, files)):
        language = document.language or ""
        left = room.setdefault(language, SAMPLE_CHARACTERS)
        if left > 0:
            texts.setdefault(language, []).append(document.text[:left])
            room[language] = left - len(document.text)
        looked_through += len(document.text)
        if looked_through > _MIXED_CHARACTERS:
            break
    return {language: "\n\n".join(some) for language, some in texts.items()}


def _documents(file: InputFile) -> Iterator[Document]:
    for number, record in open_records(file.path, file.fields, file.max_line_bytes):
        found = parse_record(file.path, number, record, file.fields)
        if isinstance(found, Document):
            yield found


def _learn_one(sample: tuple[str, str]) -> tuple[str, TrainedSplitter]:
    return sample[0], learn(sample[1])


def _nothing() -> None:
    pass
