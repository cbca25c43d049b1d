"""Encoding the input files of a part with a pool of workers, and going on where a killed command stopped."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from megatron_mmbert.data.documents import empty_file
from megatron_mmbert.data.encode import Chunk, EncodedChunk, Encoder, InputFile, Tokenizer, read_chunks
from megatron_mmbert.data.job import PreprocessJob, identity
from megatron_mmbert.data.part import PartWriter
from megatron_mmbert.data.progress import ByteProgress
from megatron_mmbert.data.records import Fields, SkippedLines, report_bad
from megatron_mmbert.data.rows import store_dtype
from megatron_mmbert.data.workers import ordered_map


class Filling:
    """How far a part has come."""

    def __init__(self) -> None:
        self.done = self.files = 0

    def keep(self, error: BaseException) -> bool:
        """Whether what there is serves the next try: finished files do, and bad input in a later one can be mended."""
        finished = self.done == self.files
        return self.done > 0 and not (finished and isinstance(error, Exception) and not isinstance(error, OSError))

    def fill(
        self, folder: Path, job: PreprocessJob, files: list[InputFile], tokenizer: Tokenizer, about: dict[str, Any]
    ) -> None:
        """Make the part of ``files`` in ``folder``, or the rest of it; ``about``: all that it depends on beside them.

        Raises:
            UserError: bad input.
        """
        dtype = store_dtype(tokenizer.vocab_size)
        writer = PartWriter(folder, about, identity(files))
        try:
            self.done, self.files = writer.done, len(files)
            if self.done:
                print(f"{job.output}: going on, {self.done:,} of {self.files:,} input files are done", flush=True)
            left = files[self.done :]
            total = sum(file.path.stat().st_size for file in left)
            prepare = partial(_prepare_worker, job.tokenizer, job.fields, dtype, job.dedup)
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


def load_any_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer at ``path``, as far as the data room knows it."""
    from megatron_mmbert.tokenizer.load import load_tokenizer

    tokenizer: Tokenizer = load_tokenizer(path)
    return tokenizer


_encoder: Encoder | None = None  # of this worker process


def _prepare_worker(tokenizer: Path, fields: Fields, dtype: str, dedup: bool) -> None:
    global _encoder
    _encoder = Encoder(load_any_tokenizer(tokenizer), fields, dtype, dedup)


def _encode(chunk: Chunk) -> EncodedChunk:
    assert _encoder is not None
    return _encoder.encode(chunk)
