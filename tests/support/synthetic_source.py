"""An in-memory store for the tests of the mixture and the loader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_mmbert.config.values import LinearRamp
from megatron_mmbert.data.sampling.settings import DataPhase, TokenizerIds

VOCAB = 1000
IDS = TokenizerIds(pad=0, bos=2, eos=1, mask=4, specials=frozenset(range(6)) | {999}, vocab_size=VOCAB)


class Name(NamedTuple):
    source: str
    language: str


def data_phase(*arguments: Any, **settings: Any) -> DataPhase:
    """Return a DataPhase whose temperature and mask ratio are written as in a recipe: ``0.3`` or ``{from, to}``."""
    for name in ("temperature", "mask_ratio"):
        if name in settings:
            settings[name] = LinearRamp.model_validate(settings[name])
    return DataPhase(*arguments, **settings)


class MemorySource:
    """Documents of given lengths with ids that tell where they come from; text ids lie in [6, 999)."""

    vocab_size = VOCAB

    def __init__(self, lengths: Mapping[tuple[str, str], Sequence[int] | npt.NDArray[np.int64]]) -> None:
        self._lengths = {Name(*name): np.asarray(each, dtype=np.int64) for name, each in lengths.items()}
        self.datasets = list(self._lengths)

    def document_lengths(self, source: str, language: str) -> npt.NDArray[np.int64]:
        return self._lengths[Name(source, language)]

    def tokens(self, source: str, language: str, document: int, start: int, stop: int) -> npt.NDArray[np.int64]:
        assert 0 <= start < stop <= self._lengths[Name(source, language)][document]
        dataset = self.datasets.index(Name(source, language))
        return 6 + (np.arange(start, stop) * 31 + document * 17 + dataset * 101) % 993

    def reader(self, source: str, language: str) -> Callable[[int, int, int], npt.NDArray[np.int64]]:
        return partial(self.tokens, source, language)

    def where(self, source: str, language: str, document: int) -> str:
        return f"{source}/{language} index {document}"


def lognormal_lengths(documents: int, median: float, sigma: float = 1.1, seed: int = 0) -> npt.NDArray[np.int64]:
    """Return lengths as web documents have them, int64 [documents]."""
    drawn = np.random.default_rng(seed).lognormal(np.log(median), sigma, documents)
    return np.maximum(1, drawn).astype(np.int64)


def small_source() -> MemorySource:
    """Return two sources, five datasets of very different size."""
    return MemorySource(
        {
            ("web", "eng"): lognormal_lengths(4000, 150, seed=1),
            ("web", "deu"): lognormal_lengths(600, 120, seed=2),
            ("web", "srp_Cyrl"): lognormal_lengths(40, 90, seed=3),
            ("web", "smo"): [70, 0, 3],
            ("books", "eng"): lognormal_lengths(30, 9000, seed=4),
        }
    )
