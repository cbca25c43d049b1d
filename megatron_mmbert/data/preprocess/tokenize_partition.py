"""Encoding the input files of a part with a pool of workers, and going on where a killed command stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from megatron_mmbert.data.preprocess.job import PreprocessJob, identity
from megatron_mmbert.data.preprocess.partition_writer import PartitionWriter
from megatron_mmbert.data.preprocess.tokenize_worker import (
    Chunk,
    EncodedChunk,
    InputFile,
    Tokenizer,
    TokenizeWorker,
    read_chunks,
)
from megatron_mmbert.data.preprocess.train_sentence_splitter import learn_languages
from megatron_mmbert.data.sampling.examples import room_for_ids
from megatron_mmbert.data.store.encoded_documents import store_dtype
from megatron_mmbert.data.text.document_splitter import DocumentSplitter
from megatron_mmbert.data.text.documents import empty_file
from megatron_mmbert.data.text.records import Fields, SkippedLines, report_bad
from megatron_mmbert.data.text.sentence_splitter import SENTENCES_NAME, TrainedSplitter, save
from megatron_mmbert.utils.process_pool import ordered_map
from megatron_mmbert.utils.progress import ByteProgress


class PartitionTokenizer:
    """How far a part has come."""

    def __init__(self) -> None:
        self.done = self.files = 0

    def keep(self, error: BaseException) -> bool:
        """Whether what there is serves the next try: finished files do, and bad input in a later one can be mended."""
        finished = self.done == self.files
        return self.done > 0 and not (finished and isinstance(error, Exception) and not isinstance(error, OSError))

    def fill(
        self,
        folder: Path,
        job: PreprocessJob,
        files: list[InputFile],
        every_file: list[InputFile],
        about: dict[str, Any],
    ) -> None:
        """Make the part of ``files`` in ``folder``, or the rest of it.

        ``every_file``: the files of all parts; ``about``: all that this one depends on beside ``files``.

        Raises:
            UserError: bad input.
        """
        tokenizer = load_any_tokenizer(job.tokenizer)
        dtype = store_dtype(tokenizer.vocab_size)
        tools = _Tools(job.tokenizer, job.fields, dtype, job.dedup)
        if job.max_length is not None:
            languages = learn_sentences(folder, every_file, files, job)
            # What is done holds only as long as what was learned of the inputs is the same.
            about = about | {"sentences": hashlib.sha256((folder / SENTENCES_NAME).read_bytes()).hexdigest()}
            tools = tools._replace(languages=languages, room=room_for_ids(job.max_length))
        writer = PartitionWriter(folder, about, identity(files))
        try:
            self.done, self.files = writer.done, len(files)
            if self.done:
                print(f"{job.output}: going on, {self.done:,} of {self.files:,} input files are done", flush=True)
            left = files[self.done :]
            total = sum(file.path.stat().st_size for file in left)
            prepare = partial(_prepare_worker, tools)
            # Closed here and now: after an error the workers must be gone before the folder is removed.
            with (
                ByteProgress("preprocess", total) as progress,
                closing(ordered_map(_encode, read_chunks(left), job.workers, prepare)) as done,
            ):
                for chunk in _checked(done, writer.skipped if job.skip_bad else None):
                    for documents in chunk.documents:
                        writer.add(documents)
                    if chunk.ends_file:
                        writer.finish_file()
                        self.done = writer.done
                    progress.add(chunk.input_bytes)
            entry = {"path": str(job.tokenizer), "fingerprint": tokenizer.fingerprint()}
            writer.finish({"dtype": dtype, "tokenizer": entry | {"vocab_size": tokenizer.vocab_size}})
        finally:
            writer.close()


def _checked(chunks: Iterable[EncodedChunk], skip_bad: SkippedLines | None) -> Iterable[EncodedChunk]:
    """Pass chunks on after reporting their bad lines, and files that had no document at all."""
    seen = 0
    for chunk in chunks:
        for bad in chunk.bad:
            report_bad(bad, skip_bad)
        seen += len(chunk.documents) + len(chunk.bad)
        if chunk.ends_file:
            if not seen:
                report_bad(empty_file(chunk.file.path), skip_bad)
            seen = 0
        yield chunk


def learn_sentences(
    folder: Path, every_file: list[InputFile], files: list[InputFile], job: PreprocessJob
) -> dict[str, TrainedSplitter]:
    """Learn where sentences end in the languages of ``files``, from all files of theirs; keep it in ``folder``."""
    of_files = {file.language for file in files}
    languages = learn_languages(every_file, None if None in of_files else of_files, job.workers)
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / SENTENCES_NAME, languages)
    return languages


def load_any_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer at ``path``, as far as the data room knows it."""
    from megatron_mmbert.tokenizer.load import load_tokenizer

    tokenizer: Tokenizer = load_tokenizer(path)
    return tokenizer


_encoder: TokenizeWorker | None = None  # of this worker process


class _Tools(NamedTuple):
    """What a worker makes its encoder of."""

    tokenizer: Path
    fields: Fields
    dtype: str
    dedup: bool
    languages: dict[str, TrainedSplitter] | None = None
    room: int | None = None


def _prepare_worker(tools: _Tools) -> None:
    global _encoder
    tokenizer = load_any_tokenizer(tools.tokenizer)
    cutter = None if tools.room is None else DocumentSplitter(tools.languages or {}, tools.room, tokenizer.piece_bytes)
    _encoder = TokenizeWorker(tokenizer, tools.fields, tools.dtype, tools.dedup, cutter)


def _encode(chunk: Chunk) -> EncodedChunk:
    assert _encoder is not None
    return _encoder.encode(chunk)
