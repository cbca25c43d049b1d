"""Several token stores read as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.store.reader import Group, Store
from megatron_mmbert.utils.errors import UserError


class ConcatenatedStores:
    """The groups of several stores; each (source, language) lies in exactly one of them."""

    def __init__(self, stores: Sequence[Store]) -> None:
        """
        Raises:
            UserError: two stores hold the same (source, language), or have vocabularies of different sizes.
        """
        self.stores = list(stores)
        self._store_of: dict[tuple[str, str], Store] = {}
        for store in self.stores:
            for group in store.groups:
                other = self._store_of.setdefault((group.source, group.language), store)
                if other is not store:
                    raise UserError(
                        f"{other.path} and {store.path} both hold source {group.source!r}, language "
                        f"{group.language!r}; give one of them another --source"
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
    def groups(self) -> list[Group]:
        return [group for store in self.stores for group in store.groups]

    @property
    def sources(self) -> list[str]:
        return sorted({source for source, _ in self._store_of})

    def document_lengths(self, source: str, language: str) -> npt.NDArray[np.int64]:
        """int64 [documents], as :meth:`Store.document_lengths`."""
        return self._store_of[source, language].document_lengths(source, language)

    def tokens(self, source: str, language: str, document: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Ids of a piece of a document, as :meth:`Store.tokens`."""
        return self._store_of[source, language].tokens(source, language, document, start, stop)


def open_stores(paths: Sequence[Path]) -> ConcatenatedStores:
    """Open the stores at ``paths`` together.

    Raises:
        UserError: as :meth:`Store.open` and :class:`ConcatenatedStores`.
    """
    return ConcatenatedStores([Store.open(path) for path in paths])
