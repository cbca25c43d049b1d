"""The beginning of a datatrove pipeline: the documents of a token store, as text again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_mmbert.data.datatrove.step import PipelineStep, local
from megatron_mmbert.data.store.reader import Store
from megatron_mmbert.tokenizer.load import load_tokenizer
from megatron_mmbert.utils.errors import UserError

if TYPE_CHECKING:
    from datatrove.data import Document


class TokenStoreReader(PipelineStep):
    """The step that yields a store's documents: task ``rank`` of N every N-th of each language.

    A document's id is ``SOURCE/LANGUAGE/NUMBER``; its metadata hold ``source``, ``language``, ``token_count`` and, with
    ``ids_key``, the ids under that key.
    """

    name = "token store"
    type = "📖 - READER"

    def __init__(
        self,
        store: Path | str,
        tokenizer: Path | str,
        languages: Iterable[str] | None = None,
        limit: int = -1,
        ids_key: str | None = None,
    ) -> None:
        """Take the settings; nothing is read before a task runs.

        Args:
            languages: the languages to read; None: all.
            limit: the most documents that each task yields; -1: all.
        """
        super().__init__()
        self.store, self.tokenizer = local(store), local(tokenizer)
        self.languages = None if languages is None else sorted(languages)
        self.limit, self.ids_key = limit, ids_key

    def run(self, data: Iterable[Document] | None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield what comes before, and then the documents of task ``rank``.

        Raises:
            UserError: no such store, a damaged one, one of another tokenizer, or without one of the languages.
        """
        from datatrove.data import Document

        yield from data or ()
        store, tokenizer = Store.open(self.store), load_tokenizer(self.tokenizer)
        if not tokenizer.has_fingerprint(store.tokenizer_fingerprint):
            raise UserError(f"{self.store}: made with another tokenizer than {self.tokenizer}; give that one")
        missing = set(self.languages or ()) - {dataset.language for dataset in store.datasets}
        if missing:
            raise UserError(f"{self.store}: has no documents in {', '.join(sorted(missing))}; give other languages")
        left = self.limit
        for dataset in store.datasets:
            if self.languages is not None and dataset.language not in self.languages:
                continue
            lengths = store.document_lengths(dataset.source, dataset.language)
            for number in range(rank, dataset.documents, world_size):
                if left == 0:
                    return
                left -= 1
                ids = store.tokens(dataset.source, dataset.language, number, 0, int(lengths[number]))
                metadata = {"source": dataset.source, "language": dataset.language, "token_count": len(ids)}
                if self.ids_key:
                    metadata[self.ids_key] = ids.tolist()
                name = f"{dataset.source}/{dataset.language}/{number}"
                document = Document(tokenizer.decode(ids), name, [], metadata)
                self.update_doc_stats(document)
                self.stat_update("documents")
                yield document
