"""Tokenize the input files of one partition with a pool of workers; resumable after a kill."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from megatron_mmbert.config.base import SPECIAL_TOKENS_PER_SAMPLE
from megatron_mmbert.data.preprocess.job import PreprocessJob, input_identities
from megatron_mmbert.data.preprocess.partition_writer import PartitionWriter
from megatron_mmbert.data.preprocess.tokenize_worker import (
    LineBatch,
    TokenizedBatch,
    TokenizeWorker,
    read_batches,
)
from megatron_mmbert.data.preprocess.train_sentence_splitter import train_splitters
from megatron_mmbert.data.store.tokenized_documents import store_dtype
from megatron_mmbert.data.text.document_splitter import DocumentSplitter
from megatron_mmbert.data.text.documents import empty_file
from megatron_mmbert.data.text.records import Fields, InputFile, SkippedLines, report_bad
from megatron_mmbert.data.text.sentence_splitter import SENTENCES_NAME, TrainedSplitter, save_splitters
from megatron_mmbert.tokenizer.load import Tokenizer
from megatron_mmbert.utils.process_pool import ordered_map
from megatron_mmbert.utils.progress import ByteProgress


class PartitionTokenizer:
    """Tokenizes the files of one partition, and counts them: ``done`` of ``files``."""

    def __init__(self) -> None:
        self.done = self.files = 0

    def is_worth_keeping(self, error: BaseException) -> bool:
        """Tell if the next try can use what is made: finished files, and bad input in a later one can be fixed."""
        finished = self.done == self.files
        return self.done > 0 and not (finished and isinstance(error, Exception) and not isinstance(error, OSError))

    def tokenize(
        self,
        folder: Path,
        job: PreprocessJob,
        tokenizer: Tokenizer,
        files: list[InputFile],
        every_file: list[InputFile],
        settings: dict[str, Any],
    ) -> None:
        """Make the partition of ``files`` in ``folder``, or what is missing of it.

        ``every_file``: the files of all partitions; ``settings``: all that this one depends on besides ``files``.

        Raises:
            UserError: bad input.
        """
        tokenizer.encode_arrays([])  # makes the tables that forked workers then share
        dtype = store_dtype(tokenizer.vocab_size)
        worker = _WorkerSettings(tokenizer, job.fields, dtype, job.dedup)
        if job.max_length is not None:
            languages = _train_splitters(folder, every_file, files, job)
            # What is done holds only as long as what was learned of the inputs is the same.
            settings = settings | {"sentences": hashlib.sha256((folder / SENTENCES_NAME).read_bytes()).hexdigest()}
            max_tokens = job.max_length - SPECIAL_TOKENS_PER_SAMPLE
            worker = worker._replace(languages=languages, max_tokens=max_tokens)
        writer = PartitionWriter(folder, settings, input_identities(files))
        try:
            self.done, self.files = writer.done, len(files)
            if self.done:
                print(f"{job.output}: resuming, {self.done:,} of {self.files:,} input files are done", flush=True)
            left = files[self.done :]
            total = sum(file.path.stat().st_size for file in left)
            prepare = partial(_prepare_worker, worker)
            # Closed here and now: after an error the workers must be gone before the folder is removed.
            with (
                ByteProgress("preprocess", total) as progress,
                closing(
                    ordered_map(_tokenize, read_batches(left), job.workers, prepare, partial(progress.add, 0))
                ) as batches,
            ):
                for batch in _checked(batches, writer.skipped if job.skip_bad else None):
                    for documents in batch.documents:
                        writer.add(documents)
                    writer.left_out += batch.left_out
                    if batch.ends_file:
                        writer.finish_file()
                        self.done = writer.done
                    progress.add(batch.input_bytes)
            entry = {"path": str(job.tokenizer), "fingerprint": tokenizer.fingerprint()}
            writer.finish({"dtype": dtype, "tokenizer": entry | {"vocab_size": tokenizer.vocab_size}})
        finally:
            writer.close()


def _checked(batches: Iterable[TokenizedBatch], skip_bad: SkippedLines | None) -> Iterable[TokenizedBatch]:
    """Pass batches on after reporting their bad lines, and files that had no document at all."""
    seen = 0
    for batch in batches:
        for bad in batch.bad:
            report_bad(bad, skip_bad)
        seen += len(batch.documents) + len(batch.bad) + batch.left_out
        if batch.ends_file:
            if not seen:
                report_bad(empty_file(batch.file.path), skip_bad)
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
