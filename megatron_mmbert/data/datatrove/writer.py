"""The ends of a datatrove pipeline: each task writes a partition of a store, and one task merges the partitions.

::

    LocalPipelineExecutor([reader, filters..., TokenStoreWriter("parts", "tokenizer")], tasks=8).run()
    LocalPipelineExecutor([TokenStoreMerger("parts", "store")], tasks=1).run()

A task that was killed is run again by datatrove and makes its partition anew, so the store does not depend on it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.datatrove.step import PipelineStep, local
from megatron_mmbert.data.preprocess.output_folder import MADE_FROM_NAME, staging_folder
from megatron_mmbert.data.preprocess.partition_writer import FILES, PartitionWriter
from megatron_mmbert.data.preprocess.run import merge
from megatron_mmbert.data.preprocess.tokenize_worker import TokenizeWorker
from megatron_mmbert.data.store.tokenized_documents import store_dtype
from megatron_mmbert.data.store.writer import SHARD_BYTES
from megatron_mmbert.data.text.records import BadLine, Document, Fields, InputFile, document_of, short
from megatron_mmbert.tokenizer.load import load_tokenizer
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import remove_folder, replace_folder, write_json
from megatron_mmbert.utils.names import is_name
from megatron_mmbert.utils.output_kinds import PARTITION
from megatron_mmbert.utils.outputs import check_output

if TYPE_CHECKING:
    from datatrove.data import Document as TroveDocument

PARTITION_PATTERN = "part-*"
_DOCUMENTS_AT_ONCE = 256


class TokenStoreWriter(PipelineStep):
    """The step that tokenizes documents and writes one partition per task, ``FOLDER/part-00000`` and so on.

    Documents pass on to the next step, so several writers may follow each other.
    """

    name = "token store"
    type = "💽 - WRITER"

    def __init__(
        self,
        output_folder: Path | str,
        tokenizer: Path | str,
        language: str | None = None,
        language_key: str = "language",
        source: str = "corpus",
        ids_key: str | None = None,
        dedup: bool = False,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        """Take the settings; nothing is read before a task runs.

        Args:
            output_folder: a local folder, or one that all nodes share.
            tokenizer: as ``mmbert preprocess`` takes it.
            language: of all documents; None: each names its own in ``metadata[language_key]``.
            ids_key: the key of ``metadata`` that holds the ids of this tokenizer already; None: the text is tokenized.
            dedup: of equal texts of a language, the merge keeps the first.
        """
        super().__init__()
        if not is_name(source):
            raise UserError(f"source {source!r}: give a name of printable characters without spaces")
        if language is not None and not is_name(language):
            raise UserError(f"language {language!r}: give a code such as deu_Latn, or None")
        if shard_bytes < 1:
            raise UserError(f"shard_bytes {shard_bytes}: give at least 1")
        self.output_folder, self.tokenizer = local(output_folder), local(tokenizer)
        self.language, self.language_key, self.ids_key = language, language_key, ids_key
        self.source, self.dedup, self.shard_bytes = source, dedup, shard_bytes

    def run(self, data: Iterable[TroveDocument] | None, rank: int = 0, world_size: int = 1) -> Iterator[TroveDocument]:
        """Write the partition of task ``rank``, and yield its documents.

        Raises:
            UserError: a document without text, language or tokens, or the folder holds something else.
        """
        tokenizer = load_tokenizer(self.tokenizer)
        worker = TokenizeWorker(tokenizer, Fields(), store_dtype(tokenizer.vocab_size), self.dedup)
        output = check_output(Path(self.output_folder) / f"part-{rank:05d}", PARTITION, [], overwrite=True)
        settings = self._settings(tokenizer.fingerprint())
        with staging_folder(output, keep=lambda error: False) as folder:
            remove_folder(folder / "part")  # of a task that was killed
            place = InputFile(Path(f"datatrove task {rank}"), self.language)
            writer = PartitionWriter(folder / "part", settings, [[str(place.path), self.language, 0, 0]])
            try:
                documents = iter(data or ())
                first = 0
                while batch := list(islice(documents, _DOCUMENTS_AT_ONCE)):
                    for tokenized in self._tokenized(worker, batch, place, first):
                        writer.add(tokenized)
                        self.stat_update("tokens", value=int(tokenized.ids.size), unit="doc")
                    first += len(batch)
                    yield from batch
                writer.finish_file()
                entry = {"path": self.tokenizer, "fingerprint": tokenizer.fingerprint()}
                writer.finish({"dtype": worker.dtype, "tokenizer": entry | {"vocab_size": tokenizer.vocab_size}})
            finally:
                writer.close()
            made_from = settings | {
                "all_inputs": "",
                "shard": [rank + 1, world_size],
                "inputs": [_identity(folder / "part", place)],
            }
            write_json(folder / "part" / MADE_FROM_NAME, made_from)
            replace_folder(folder / "part", output)

    def _settings(self, fingerprint: str) -> dict[str, Any]:
        """Return all that a store depends on besides its documents, as preprocessing records it."""
        return ({"dedup": True} if self.dedup else {}) | {
            "source": self.source,
            "language": self.language,
            "shard_bytes": self.shard_bytes,
            "tokenizer_fingerprint": fingerprint,
        }

    def _tokenized(self, worker: TokenizeWorker, batch: list[TroveDocument], place: InputFile, first: int) -> list[Any]:
        documents = [self._document(each, place, first + n) for n, each in enumerate(batch, start=1)]
        bad: list[BadLine] = []
        if self.ids_key is None:
            tokenized = worker.tokenize_documents(documents, place, bad)
        else:
            tokenized = worker.with_ids(documents, [self._ids(each, place) for each in batch], place, bad)
        if bad:
            raise UserError(f"{place.path}: document {batch[bad[0].line - first - 1].id!r}: gives no token; filter it")
        return tokenized

    def _ids(self, document: TroveDocument, place: InputFile) -> npt.NDArray[Any]:
        """Return the ids that a document brings, of any type of integer.

        Raises:
            UserError: they are no list of integers.
        """
        value = document.metadata.get(self.ids_key)
        try:
            ids = np.asarray([] if value is None else value)
        except ValueError:  # lists of several lengths
            ids = np.empty((0, 0))
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            raise UserError(
                f"{place.path}: document {document.id!r}: metadata[{self.ids_key!r}] is {short(value)}, no list of ids"
            )
        return ids

    def _document(self, document: TroveDocument, place: InputFile, number: int) -> Document:
        """Return a document as preprocessing has it; ``number`` counts from 1.

        Raises:
            UserError: it has no text, or no language.
        """
        key = self.language_key
        record = {"text": document.text, "id": document.id, "language": document.metadata.get(key)}
        found = document_of(record, Fields(language=None if self.language else "language"), str(place.path), number)
        if isinstance(found, str):
            reason = found.replace("language field 'language'", f"metadata[{key!r}]")
            raise UserError(f"{place.path}: document {document.id!r}: {reason}; put a filter before this step")
        return found


class TokenStoreMerger(PipelineStep):
    """The step that makes the store of all partitions, in one task of its own after theirs."""

    name = "token store merge"
    type = "💽 - WRITER"

    def __init__(self, input_folder: Path | str, output: Path | str, overwrite: bool = False) -> None:
        super().__init__()
        self.input_folder, self.output, self.overwrite = local(input_folder), local(output), overwrite

    def run(self, data: Iterable[TroveDocument] | None, rank: int = 0, world_size: int = 1) -> Iterator[TroveDocument]:
        """Merge in task 0, or find that the store is made already.

        Raises:
            UserError: a partition is missing, damaged or of other settings.
        """
        if rank == 0:
            partitions = sorted(Path(self.input_folder).glob(PARTITION_PATTERN))
            if not partitions:
                raise UserError(f"{self.input_folder}: no partition there; run the tasks of TokenStoreWriter first")
            merge(partitions, Path(self.output), self.overwrite)
        yield from data or ()


def _identity(folder: Path, place: InputFile) -> list[Any]:
    """Return what a partition holds in place of a file's identity: it changes when the documents do."""
    checksum = size = 0
    for name in FILES[:3]:
        with (folder / name).open("rb") as file:
            while block := file.read(1 << 20):
                checksum, size = zlib.crc32(block, checksum), size + len(block)
    return [str(place.path), place.language, size, checksum]
