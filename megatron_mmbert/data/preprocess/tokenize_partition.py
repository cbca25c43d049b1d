"""Tokenize the input files of one partition with a pool of workers; resumable after a kill."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from megatron_mmbert.config.base import SPECIAL_TOKENS_PER_SAMPLE
from megatron_mmbert.data.preprocess.job import PreprocessJob, input_files, input_identities, store_settings
from megatron_mmbert.data.preprocess.partition_maker import Batches, PartitionMaker
from megatron_mmbert.data.preprocess.partition_writer import PartitionWriter
from megatron_mmbert.data.preprocess.tokenize_worker import (
    LineBatch,
    TokenizedBatch,
    TokenizeWorker,
    read_batches,
)
from megatron_mmbert.data.preprocess.train_sentence_splitter import train_splitters
from megatron_mmbert.data.store.manifest import TokenizerEntry
from megatron_mmbert.data.store.tokenized_documents import store_dtype
from megatron_mmbert.data.text.document_splitter import DocumentSplitter
from megatron_mmbert.data.text.documents import empty_file
from megatron_mmbert.data.text.records import Fields, InputFile
from megatron_mmbert.data.text.sentence_splitter import SENTENCES_NAME, TrainedSplitter, save_splitters
from megatron_mmbert.tokenizer.load import Tokenizer, load_tokenizer
from megatron_mmbert.utils.process_pool import ordered_map


class PartitionTokenizer(PartitionMaker):
    """Tokenizes the text files of one partition."""

    what = "preprocess"

    def __init__(self, job: PreprocessJob) -> None:
        super().__init__(job)
        self._job = job
        self._tokenizer: Tokenizer | None = None

    @property
    def languages_are_known(self) -> bool:
        return self._job.fields.language is None

    def find_files(self) -> list[InputFile]:
        return input_files(self._job)

    def settings(self) -> dict[str, Any]:
        self._tokenizer = load_tokenizer(self._job.tokenizer)
        return store_settings(self._job, self._tokenizer)

    def make(self, folder: Path, files: list[InputFile], every_file: list[InputFile], settings: dict[str, Any]) -> None:
        job, tokenizer = self._job, self._tokenizer
        assert tokenizer is not None  # of which the settings are
        tokenizer.encode_arrays([])  # makes the tables that forked workers then share
        dtype = store_dtype(tokenizer.vocab_size)
        worker = _WorkerSettings(tokenizer, job.fields, dtype, job.dedup)
        if job.max_length is not None:
            languages = _train_splitters(folder, every_file, files, job)
            # What is done holds only as long as what was learned of the inputs is the same.
            settings = settings | {"sentences": hashlib.sha256((folder / SENTENCES_NAME).read_bytes()).hexdigest()}
            max_tokens = job.max_length - SPECIAL_TOKENS_PER_SAMPLE
            worker = worker._replace(languages=languages, max_tokens=max_tokens)
        prepare = partial(_prepare_worker, worker)

        def read(left: list[InputFile], waiting: Callable[[], None]) -> Batches:
            return _checked(ordered_map(_tokenize, read_batches(left), job.workers, prepare, waiting))

        entry = TokenizerEntry(str(job.tokenizer), settings["tokenizer_fingerprint"], tokenizer.vocab_size)
        self.fill(PartitionWriter(folder, settings, input_identities(files)), files, entry, read)


def _checked(batches: Batches) -> Batches:
    """Pass batches on, with a report for files that had no document at all."""
    seen = 0
    with closing(batches):
        for batch in batches:
            seen += len(batch.documents) + len(batch.bad) + batch.left_out
            if batch.ends_file:
                if not seen:
                    batch.bad.append(empty_file(batch.file.path))
                seen = 0
            yield batch


def _train_splitters(
    folder: Path, every_file: list[InputFile], files: list[InputFile], job: PreprocessJob
) -> dict[str, TrainedSplitter]:
    """Train sentence splitters for the languages of ``files``, on all files of theirs; keep them in ``folder``."""
    of_files = {file.language for file in files}
    languages = train_splitters(every_file, None if None in of_files else of_files, job.workers)
    folder.mkdir(parents=True, exist_ok=True)
    save_splitters(folder / SENTENCES_NAME, languages)
    return languages


_worker: TokenizeWorker | None = None  # of this process


class _WorkerSettings(NamedTuple):
    """The settings that a process makes its :class:`TokenizeWorker` of; ``max_tokens`` None: documents stay whole.

    A forked process has the tokenizer with them: Gemma's takes seconds to load.
    """

    tokenizer: Tokenizer
    fields: Fields
    dtype: str
    dedup: bool
    languages: dict[str, TrainedSplitter] | None = None
    max_tokens: int | None = None


def _prepare_worker(settings: _WorkerSettings) -> None:
    global _worker
    splitter = None
    if settings.max_tokens is not None:
        splitter = DocumentSplitter(settings.languages or {}, settings.max_tokens, settings.tokenizer.piece_bytes)
    _worker = TokenizeWorker(settings.tokenizer, settings.fields, settings.dtype, settings.dedup, splitter)


def _tokenize(batch: LineBatch) -> TokenizedBatch:
    assert _worker is not None
    return _worker.tokenize(batch)
