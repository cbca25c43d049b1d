"""The part that preprocessing text and importing token ids share: input files, batch by batch, into a partition."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from megatron_mmbert.data.preprocess.partition_writer import PartitionWriter
from megatron_mmbert.data.preprocess.tokenize_worker import TokenizedBatch
from megatron_mmbert.data.store.manifest import TokenizerEntry
from megatron_mmbert.data.store.tokenized_documents import store_dtype
from megatron_mmbert.data.text.records import InputFile, report_bad
from megatron_mmbert.utils.progress import ByteProgress

Batches = Generator[TokenizedBatch, None, None]
Read = Callable[[list[InputFile], Callable[[], None]], Batches]
"""Gives the batches of files in order; calls its second argument every few seconds in which none comes."""


class StoreJob(Protocol):
    """The arguments that every command which makes a store has."""

    @property
    def inputs(self) -> tuple[Path, ...]: ...

    @property
    def tokenizer(self) -> Path: ...

    @property
    def output(self) -> Path: ...

    @property
    def skip_bad(self) -> bool: ...

    @property
    def overwrite(self) -> bool: ...

    @property
    def partition(self) -> tuple[int, int] | None: ...


class PartitionMaker(ABC):
    """Makes a partition of input files, and counts them: ``done`` of ``files``."""

    what: str
    """The name of the work, for its progress."""

    @property
    @abstractmethod
    def languages_are_known(self) -> bool:
        """Tell if every file has a language, which was said at the start."""

    def __init__(self, job: StoreJob) -> None:
        self._output, self._skip_bad = job.output, job.skip_bad
        self.done = self.files = 0

    @abstractmethod
    def find_files(self) -> list[InputFile]:
        """Return all input files in the store's order; says which they are.

        Raises:
            UserError: there is none, or one that cannot be used.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return all that the store depends on besides its inputs."""

    @abstractmethod
    def make(self, folder: Path, files: list[InputFile], every_file: list[InputFile], settings: dict[str, Any]) -> None:
        """Make the partition of ``files`` in ``folder``, or what is missing of it.

        ``every_file``: the files of all partitions; ``settings``: all that this one depends on besides ``files``.

        Raises:
            UserError: bad input.
        """

    def is_worth_keeping(self, error: BaseException) -> bool:
        """Tell if the next try can use what is made: finished files, and bad input in a later one can be fixed."""
        finished = self.done == self.files
        return self.done > 0 and not (finished and isinstance(error, Exception) and not isinstance(error, OSError))

    def fill(self, writer: PartitionWriter, files: list[InputFile], tokenizer: TokenizerEntry, read: Read) -> None:
        """Write what ``read`` gives of those of ``files`` that are not done.

        Raises:
            UserError: bad input.
        """
        try:
            self.done, self.files = writer.done, len(files)
            if self.done:
                print(f"{self._output}: resuming, {self.done:,} of {self.files:,} input files are done", flush=True)
            left = files[self.done :]
            total = sum(file.path.stat().st_size for file in left)
            # Closed here and now: after an error the workers must be gone before the folder is removed.
            with (
                ByteProgress(self.what, total) as progress,
                closing(read(left, partial(progress.add, 0))) as batches,
            ):
                for batch in batches:
                    self._add(writer, batch)
                    progress.add(batch.input_bytes)
            writer.finish({"dtype": store_dtype(tokenizer.vocab_size), "tokenizer": asdict(tokenizer)})
        finally:
            writer.close()

    def _add(self, writer: PartitionWriter, batch: TokenizedBatch) -> None:
        for bad in batch.bad:
            report_bad(bad, writer.skipped if self._skip_bad else None)
        for documents in batch.documents:
            writer.add(documents)
        writer.left_out += batch.left_out
        if batch.ends_file:
            writer.finish_file()
            self.done = writer.done
