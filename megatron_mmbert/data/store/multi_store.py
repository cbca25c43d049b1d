"""Several token stores read as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.store.reader import Dataset, DatasetReader, Store
from megatron_mmbert.utils.errors import UserError


class ConcatenatedStores:
    """The datasets of several stores; each (source, language) lies in exactly one of them."""

    def __init__(self, stores: Sequence[Store]) -> None:
        """Check that the stores fit together.

        Raises:
            UserError: two stores hold the same (source, language), or have vocabularies of different sizes.
        """
        self.stores = list(stores)
        self._store_of: dict[tuple[str, str], Store] = {}
        for store in self.stores:
            for dataset in store.datasets:
                other = self._store_of.setdefault((dataset.source, dataset.language), store)
                if other is not store:
                    raise UserError(
                        f"{other.path} and {store.path} both hold source {dataset.source!r}, language "
                        f"{dataset.language!r}; give one of them another --source"
                    )
            if store.vocab_size != self.vocab_size:
                raise UserError(
                    f"{store.path}: made with {store.vocab_size} ids, {self.stores[0].path} with {self.vocab_size}; "
                    "preprocess both with one tokenizer"
                )

    @property
    def vocab_size(self) -> int:
        return self.stores[0].vocab_size

    @property
    def datasets(self) -> list[Dataset]:
        return [dataset for store in self.stores for dataset in store.datasets]

    @property
    def sources(self) -> list[str]:
        return sorted({source for source, _ in self._store_of})

    def document_lengths(self, source: str, language: str) -> npt.NDArray[np.int64]:
        """Return tokens per document, int64 [documents], as :meth:`Store.document_lengths`."""
        return self._store_of[source, language].document_lengths(source, language)

    def reader(self, source: str, language: str) -> DatasetReader:
        """Return what reads the documents of a dataset, as :meth:`Store.reader`."""
        return self._store_of[source, language].reader(source, language)

    def where(self, source: str, language: str, document: int) -> str:
        """Return the file and the name of a document, as :meth:`Store.where`."""
        return self._store_of[source, language].where(source, language, document)


def open_stores(paths: Sequence[Path], check_share: float | None = None) -> ConcatenatedStores:
    """Open the stores at ``paths`` together, as :meth:`Store.open`.

    Raises:
        UserError: as :meth:`Store.open` and :class:`ConcatenatedStores`.
    """
    return ConcatenatedStores([Store.open(path, check_share) for path in paths])
