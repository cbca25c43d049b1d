"""MDS shards of token ids to a token store, as preprocessing makes one of text: partitions, workers, resuming, merging.

The parent finds where samples begin; the workers read, check and cut them. A shard is to this what a file of text is to
preprocessing: the unit of partitions, and of what a killed command does not do again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from megatron_mmbert.data.mds.columns import Columns, IdColumn, id_column
from megatron_mmbert.data.mds.decode import decode_ids
from megatron_mmbert.data.mds.discover import FoundShard, find_shards
from megatron_mmbert.data.mds.documents import Documents, Pieces, documents_of, pieces_of
from megatron_mmbert.data.mds.job import ImportJob, import_settings
from megatron_mmbert.data.mds.shard import SKIP_REMEDY, SampleBlock, hash_problem, read_samples
from megatron_mmbert.data.preprocess.job import input_identities
from megatron_mmbert.data.preprocess.partition_maker import Batches, PartitionMaker
from megatron_mmbert.data.preprocess.partition_writer import PartitionWriter
from megatron_mmbert.data.preprocess.run import make_partition, make_store
from megatron_mmbert.data.preprocess.tokenize_worker import TokenizedBatch
from megatron_mmbert.data.store.manifest import TokenizerEntry
from megatron_mmbert.data.store.tokenized_documents import store_dtype
from megatron_mmbert.data.text.inputs.discover import print_notes, print_warnings
from megatron_mmbert.data.text.records import BadLine, InputFile
from megatron_mmbert.tokenizer.load import load_tokenizer
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.process_pool import ordered_map


def import_mds(job: ImportJob) -> None:
    """Make the store of ``job``, or find that it is made already; prints its summary.

    Raises:
        UserError: bad arguments or input, or the output exists and is something else.
    """
    make_store(job, ShardImporter(job))


def import_partition(job: ImportJob) -> None:
    """Make partition I of N (``job.partition``) of the store of ``job``, or find that it is made already.

    Raises:
        UserError: as :func:`import_mds`; fewer shards than partitions.
    """
    make_partition(job, ShardImporter(job))


class ShardImporter(PartitionMaker):
    """Imports the shards of one partition."""

    what = "import"

    def __init__(self, job: ImportJob) -> None:
        super().__init__(job)
        self._job = job
        self._shards: dict[Path, FoundShard] = {}
        self._tokenizer: tuple[TokenizerEntry, Pieces] | None = None

    @property
    def languages_are_known(self) -> bool:
        return True

    def find_files(self) -> list[InputFile]:
        job = self._job
        found = find_shards(job.inputs, job.naming, job.splits, without=job.output)
        for shard in found.shards:
            id_column(shard.file.entry.columns, job.column, job.id_type, str(shard.file.path))
        print_notes(found.notes)
        print_warnings(found.warnings)
        self._shards = {shard.file.path: shard for shard in found.shards}
        return [InputFile(path, shard.dataset) for path, shard in self._shards.items()]

    def settings(self) -> dict[str, Any]:
        """Return the settings; the tokenizer is loaded here and not kept: a large one takes hundreds of megabytes."""
        tokenizer = load_tokenizer(self._job.tokenizer)
        entry = TokenizerEntry(str(self._job.tokenizer), tokenizer.fingerprint(), tokenizer.vocab_size)
        self._tokenizer = entry, pieces_of(tokenizer)
        return import_settings(self._job, entry.fingerprint)

    def make(self, folder: Path, files: list[InputFile], every_file: list[InputFile], settings: dict[str, Any]) -> None:
        job = self._job
        assert self._tokenizer is not None  # of which the settings are
        tokenizer, pieces = self._tokenizer
        worker = _Settings(tokenizer.vocab_size, store_dtype(tokenizer.vocab_size), job.documents, pieces)

        def read(left: list[InputFile], waiting: Callable[[], None]) -> Batches:
            prepare = partial(_prepare, worker)
            return ordered_map(_decode, self._blocks(left), job.workers, prepare, waiting)

        self.fill(PartitionWriter(folder, settings, input_identities(files)), files, tokenizer, read)

    def _blocks(self, files: list[InputFile]) -> Iterator[_Block]:
        """Yield the samples of files, some at a time; every file ends with a block marked ``ends_file``."""
        for file in files:
            shard = self._shards[file.path].file
            columns = shard.entry.columns
            column = id_column(columns, self._job.column, self._job.id_type, str(file.path))
            block = partial(_Block, file, columns, column)
            problem = hash_problem(shard)
            if problem is not None:
                yield block(bad=BadLine(str(file.path), 0, problem))
            else:
                for samples in read_samples(shard, self._job.max_sample_bytes):
                    yield block(bad=samples) if isinstance(samples, BadLine) else block(samples=samples)
            yield block(input_bytes=file.path.stat().st_size, ends_file=True)


class _Block(NamedTuple):
    """The work of one process at a time: samples of a file, a report to pass on, or the file's end."""

    file: InputFile
    columns: Columns
    column: IdColumn
    samples: SampleBlock | None = None
    bad: BadLine | None = None
    input_bytes: int = 0
    ends_file: bool = False


class _Settings(NamedTuple):
    """The settings that all blocks are decoded by."""

    vocab_size: int
    dtype: str
    documents: Documents
    pieces: Pieces


_settings: _Settings | None = None  # of this process


def _prepare(settings: _Settings) -> None:
    global _settings
    _settings = settings


def _decode(block: _Block) -> TokenizedBatch:
    """Return the documents of a block."""
    assert _settings is not None
    bad = [block.bad] if block.bad is not None else []
    found = []
    if block.samples is not None:
        path, first = block.file.path, block.samples.first

        def report(place: int, reason: str) -> None:
            bad.append(BadLine(str(path), first + place + 1, f"{reason}; {SKIP_REMEDY.removeprefix('or ')}"))

        content = block.samples.read(path)
        if content.size != block.samples.offsets[-1]:
            raise UserError(f"{path}: cut short while it was read; download it again, then start again")
        ids = decode_ids(
            content,
            block.samples.offsets,
            block.columns,
            block.column,
            _settings.vocab_size,
            _settings.dtype,
            report,
        )
        documents = documents_of(ids, block.file.language or "", _settings.pieces, _settings.documents, report)
        found = [documents] if documents is not None else []
        bad.sort(key=lambda line: line.line)
    return TokenizedBatch(block.file, found, bad, block.input_bytes, block.ends_file)
