"""Character n-grams, hashed, so that nothing is learned from any text; and a model of bytes that learns as it reads."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

_FEATURES = 1 << 15
_LONGEST = 4
_ORDER = 3


def hashed_texts(texts: Sequence[str]) -> Any:
    """Return n-grams of 1 to 4 characters within words, compressed rows [N, F]: 1 + ln(count), of length 1."""
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.preprocessing import normalize

    hasher = HashingVectorizer(
        analyzer="char_wb", ngram_range=(1, _LONGEST), n_features=_FEATURES, alternate_sign=False, norm=None
    )
    found = hasher.transform(texts).astype(np.float32)
    found.data = 1 + np.log(found.data)
    return normalize(found, copy=False)


def hashed_words(sentences: Sequence[Sequence[str]]) -> Any:
    """Return, of each word, its n-grams and those of its two neighbours apart, compressed rows [W, F] of length 1."""
    from sklearn.feature_extraction import FeatureHasher
    from sklearn.preprocessing import normalize

    hasher = FeatureHasher(n_features=_FEATURES, input_type="string", alternate_sign=False, dtype=np.float32)
    return normalize(hasher.transform(list(_word_features(sentences))), copy=False)


def _word_features(sentences: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    for words in sentences:
        around = ["", *words, ""]
        for before, word, after in zip(around, words, around[2:], strict=False):
            yield [
                *(f"word {gram}" for gram in _grams(word)),
                *(f"before {gram}" for gram in _grams(before)),
                *(f"after {gram}" for gram in _grams(after)),
            ]


def _grams(word: str) -> list[str]:
    marked = f"<{word}>"
    sizes = range(1, _LONGEST + 1)
    return [marked[at : at + size] for size in sizes for at in range(len(marked) - size + 1)] + [marked]


def adaptive_bits(texts: Sequence[str]) -> np.ndarray:
    """Return the bits of each text's bytes, fp64 [N], by n-grams of bytes counted so far (Witten and Bell, 1991)."""
    counts: dict[bytes, Counter[int]] = defaultdict(Counter)
    found = []
    for text in texts:
        bits, read = 0.0, b"\n" * _ORDER
        for byte in text.encode("utf-8", "surrogatepass"):
            probability = 1 / 256
            contexts = [read[len(read) - size :] for size in range(_ORDER + 1)]
            for context in contexts:
                seen = counts[context]
                kinds, total = len(seen), seen.total()
                if total:
                    probability = (seen[byte] + kinds * probability) / (total + kinds)
            bits -= math.log2(probability)
            for context in contexts:
                counts[context][byte] += 1
            read = (read + bytes([byte]))[-_ORDER:]
        found.append(bits)
    return np.array(found)
