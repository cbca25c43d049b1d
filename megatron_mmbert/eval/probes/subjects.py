"""Subjects of a probe: a model, the same network with random weights, and character n-grams, all asked the same way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from megatron_mmbert.eval.encoders.base import Encoder
from megatron_mmbert.eval.encoders.opening import ModelFolder
from megatron_mmbert.eval.probes.ngrams import adaptive_bits, hashed_texts, hashed_words
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import atomic_file

Features = Any
"""A matrix of float32 with a row for each text or word: an array, or SciPy's compressed rows."""
_KEPT_NUMBERS = 50_000_000
"""Counts of n-grams that are kept in memory, of 8 bytes each."""
NGRAMS, RANDOM, MODEL = "ngrams", "random", "model"


def random_label(model: str) -> str:
    """Return what tables call the network of ``model`` with random weights."""
    return f"random weights of {model}"


class Unable(Exception):
    """The subject lacks what a task needs; the message says what."""


class Subject(Protocol):
    """Something that gives features of texts and words.

    Attributes:
        label: its name in tables.
        kind: ``model``, ``random`` or ``ngrams``.
        identity: a digest of all that its features depend on.
        strengths: the inverse strengths of regularization to choose from.
    """

    label: str
    kind: str
    identity: str
    strengths: tuple[float, ...]

    def texts(self, texts: Sequence[str]) -> Features: ...

    def words(self, sentences: Sequence[Sequence[str]], joins: Sequence[str | None]) -> Features: ...

    def bits(self, texts: Sequence[str]) -> np.ndarray: ...


class NGrams:
    """Hashed character n-grams of texts and words: the baseline that knows no language."""

    label: str = "character n-grams"
    kind: str = NGRAMS
    identity: str = "character n-grams, version 1"
    strengths: tuple[float, ...] = (5.0, 50.0)

    def __init__(self) -> None:
        self._kept: dict[int, Features] = {}

    def texts(self, texts: Sequence[str]) -> Features:
        """Return weighted n-grams of 1 to 4 characters within words."""
        return self._keep(("texts", *texts), lambda: hashed_texts(texts))

    def words(self, sentences: Sequence[Sequence[str]], joins: Sequence[str | None]) -> Features:
        """Return n-grams of each word and of its neighbours."""
        return self._keep(("words", *map(tuple, sentences)), lambda: hashed_words(sentences))

    def _keep(self, parts: tuple[object, ...], compute: Callable[[], Features]) -> Features:
        """Return what ``compute`` has returned for ``parts`` before: seeds and settings ask for the same texts."""
        key = hash(parts)
        if key not in self._kept:
            if sum(found.nnz for found in self._kept.values()) > _KEPT_NUMBERS:
                self._kept.clear()
            self._kept[key] = compute()
        return self._kept[key]

    def bits(self, texts: Sequence[str]) -> np.ndarray:
        """Return bits of each text by a model of bytes that learns while it reads them, one after the other."""
        return adaptive_bits(texts)


class Vectors:
    """Files of vectors below a folder, by what they are of; computed where there is no file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, parts: Sequence[str], compute: Callable[[], np.ndarray]) -> np.ndarray:
        """Return what ``compute`` returns for ``parts``, from a file if there is one."""
        digest = hashlib.sha256()
        for part in parts:
            encoded = part.encode("utf-8", "surrogatepass")
            digest.update(f"{len(encoded)} ".encode() + encoded)
        path = self._folder / f"{digest.hexdigest()[:32]}.npy"
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):  # not there, or cut short by a crash of the machine
            found = compute()
        with atomic_file(path) as staging, staging.open("wb") as file:
            np.save(file, found)
        return found


class ModelSubject:
    """A model, or its network with random weights, whose vectors are kept; loaded when it is first asked."""

    strengths: tuple[float, ...] = (0.001, 0.01, 0.1)

    def __init__(
        self, model: ModelFolder, device: str, dtype: str, vectors: Vectors, random_seed: int | None = None
    ) -> None:
        self.kind = MODEL if random_seed is None else RANDOM
        self.label = model.label if random_seed is None else random_label(model.label)
        self.identity = f"{model.identity} {dtype} {'' if random_seed is None else f'random {random_seed}'}"
        self._open: Callable[[], Encoder] = lambda: model.open(device, dtype, random_seed)
        self._vectors = vectors
        self._encoder: Encoder | None = None

    @property
    def encoder(self) -> Encoder:
        """The loaded model."""
        if self._encoder is None:
            self._encoder = self._open()
        return self._encoder

    def release(self) -> None:
        """Give the memory of the model back; it is loaded again when it is asked."""
        self._encoder = None

    def texts(self, texts: Sequence[str]) -> Features:
        """Return pooled vectors, fp32 [N, D]."""
        return self._vectors.get(
            ["texts", self.identity, *texts], lambda: self._finite(self.encoder.text_vectors(texts))
        )

    def words(self, sentences: Sequence[Sequence[str]], joins: Sequence[str | None]) -> Features:
        """Return vectors of words, fp32 [W, 2D]; see :meth:`.Encoder.word_vectors`.

        Raises:
            Unable: the model has no ``tokenizer.json``.
        """
        parts = [f"{join}\n" + "\n".join(words) for words, join in zip(sentences, joins, strict=True)]
        return self._vectors.get(["words", self.identity, *parts], lambda: self._words(sentences, joins))

    def _words(self, sentences: Sequence[Sequence[str]], joins: Sequence[str | None]) -> np.ndarray:
        if self.encoder.words_by is None:
            raise Unable("no tokenizer.json in its folder, which says where in a text each token stands")
        return self._finite(self.encoder.word_vectors(sentences, joins))

    def bits(self, texts: Sequence[str]) -> np.ndarray:
        """Return bits of each text, fp64 [N].

        Raises:
            Unable: the model has no masked-language-model head.
        """
        if not self.encoder.has_head:
            raise Unable("no masked-language-model head in its folder, without which there are no bits per byte")
        return self._vectors.get(["bits", self.identity, *texts], lambda: self._finite(self.encoder.bits(texts)))

    def _finite(self, found: np.ndarray) -> np.ndarray:
        if not np.isfinite(found).all():
            raise UserError(
                f"{self.label}: a vector is not finite (NaN or infinity); compute in --dtype fp32, or export it again"
            )
        return found
