"""Load a tokenizer from whatever file it comes in, and use it the same way.

::

    tokenizer = load_tokenizer(Path("tokenizer/"))      # or a .model, or a tokenizer.json
    ids = tokenizer.encode("Ein Satz.")                 # no <bos>, no <eos>, no special token in any text
    assert tokenizer.decode(ids) == "Ein Satz."
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from megatron_mmbert.tokenizer.engines import (
    Engine,
    JsonEngine,
    SentencePieceEngine,
    rules_fingerprint,
    without_parsing,
)
from megatron_mmbert.tokenizer.special_tokens import EXPORTED_FILE, MODEL_FILE
from megatron_mmbert.utils.checksums import CHECKSUM_FILE, file_problem, read_checksums
from megatron_mmbert.utils.errors import UserError

_OTHER_FILES = ("spiece.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json", "merges.txt")
_RULES_SHOW = ("Word", " two  spaces ", "Line\nand\ttab", "Ｆull ﬁ É e\u0301 1234")
_COPY_AGAIN = "copy the folder again, or train or export it again"
_PADDED_TO = (8, 16, 32, 64, 128)
_KINDS = "a folder of tools/train_tokenizer.py, a SentencePiece .model or a tokenizer.json"


class Tokenizer:
    """Text to ids and back. Made by :func:`load_tokenizer`; can be sent to another process."""

    def __init__(self, path: Path, engine: Engine, file: Path) -> None:
        self.path = path
        """The path as given."""
        self._file = file
        self._engine = engine
        self.vocab_size: int = len(engine.pieces)
        """Length of the id space: the largest id plus one, added tokens included."""
        self.pad_id: int = engine.specials["pad"]
        self.eos_id: int = engine.specials["eos"]
        self.bos_id: int = engine.specials["bos"]
        self.unk_id: int = engine.specials["unk"]
        self.mask_id: int = engine.specials["mask"]
        self.special_ids: tuple[int, ...] = tuple(sorted(engine.special_ids))
        """Ids that no text gives, ascending: the five above and other control tokens."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text`` without ``<bos>``/``<eos>``; the text ``<mask>`` gives ordinary pieces.

        Decoding gives the text back exactly, with a tokenizer trained here. Gemma's turns U+2581 into a space.

        Raises:
            ValueError: ``text`` holds half of a surrogate pair, which is no character.
        """
        try:
            return self._engine.encode(text)
        except (RuntimeError, TypeError):
            text.encode("utf-8")  # UnicodeEncodeError, a ValueError that says where, if that is the reason
            raise

    def encode_arrays(self, texts: Iterable[str]) -> list[np.ndarray]:
        """Return the ids of each text, int32 [tokens], in one thread, at several times the speed of :meth:`encode`."""
        return self._engine.encode_arrays(list(texts))

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids`` (ints, or a 1-d array); special ids are left out."""
        special = self._engine.special_ids
        return self._engine.decode([int(i) for i in ids if int(i) not in special])

    @cached_property
    def piece_bytes(self) -> np.ndarray:
        """The bytes of UTF-8 text each id stands for, int32 [vocab_size]; 0 for special ids.

        The sum over a document's ids is the document's length in bytes (one more with a prefix space): what bits per
        byte divides by.
        """
        counts = [self._engine.bytes_of(i) for i in range(self.vocab_size)]
        counts_v = np.array(counts, dtype=np.int32)
        counts_v[list(self.special_ids)] = 0
        return counts_v

    def piece(self, token_id: int) -> str:
        """Return the piece of an id as the vocabulary writes it: ``▁the``, ``<0x0A>``, ``<mask>``."""
        return self._engine.pieces[token_id]

    def spelled(self, token_id: int) -> str:
        """Return the piece of an id as SentencePiece would write it, whatever the kind of vocabulary: ``▁the``."""
        return self._engine.spelled(token_id)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the ``.model`` file, or of the rules in ``tokenizer.json``: an identity."""
        return self._engine.fingerprint()

    def has_fingerprint(self, fingerprint: str) -> bool:
        """Return whether ``fingerprint`` is this tokenizer's, or that of the ``tokenizer.json`` exported from it."""
        return fingerprint == self.fingerprint() or fingerprint == self._engine.exported_fingerprint()

    def fits_rows(self, rows: int) -> bool:
        """Return whether a model of ``rows`` word embeddings may have this vocabulary.

        One row for each id, or padded, as released models are, to the next multiple of 8, 16, 32, 64 or 128.
        """
        return rows in {self.vocab_size, *(-(-self.vocab_size // multiple) * multiple for multiple in _PADDED_TO)}

    def save_pretrained(self, folder: Path | str) -> None:
        """Write a folder for ``AutoTokenizer.from_pretrained``, with the ``.model`` if there is one.

        Raises:
            UserError: a ``.model`` of a kind that would be exported with other ids.
        """
        self._engine.save(Path(folder))

    def moved_to(self, folder: Path) -> Tokenizer:
        """Return this tokenizer for the same files in the folder ``folder``."""
        return Tokenizer(folder, self._engine, folder / self._file.name)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _load_file, (self.path, self._file)

    def __repr__(self) -> str:
        return f"Tokenizer({str(self.path)!r}, vocab_size={self.vocab_size})"


def load_tokenizer(path: Path | str) -> Tokenizer:
    """Load a folder, a ``.model`` file or a ``tokenizer.json``.

    A folder's ``.model`` is taken before its ``tokenizer.json``, as training did, if the two give the same ids; of two
    that differ (tokens were added with transformers, or a released model keeps its base's ``.model``) the
    ``tokenizer.json``, which is what transformers reads. Name the file itself to choose.

    Raises:
        UserError: missing path, unknown kind of file, damaged file, or a special token is missing.
    """
    path = Path(path)
    file = _tokenizer_file(path)
    known = read_checksums(path, _COPY_AGAIN) if (path / CHECKSUM_FILE).is_file() else {}
    # Only this one: transformers writes tokenizer.json anew in the same folder, in other bytes with the same rules.
    problem = file_problem(path, MODEL_FILE, known, _COPY_AGAIN) if MODEL_FILE in known else None
    if problem:
        raise UserError(problem)
    tokenizer = _load_file(path, file)
    exported = path / EXPORTED_FILE
    together = EXPORTED_FILE in known and file_problem(path, EXPORTED_FILE, known, "") is None
    if path.is_dir() and file != exported and exported.is_file() and not together:
        theirs = _load_file(path, exported)
        if not same_ids(tokenizer, theirs):
            print(f"{exported}: gives other ids than {file.name}; it is taken, as transformers does", file=sys.stderr)
            return theirs
    return tokenizer


def _load_file(path: Path, file: Path) -> Tokenizer:
    """Return the tokenizer in ``file``, which was found by the name ``path``."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check its permissions") from None
    engine = JsonEngine(file, content) if file.suffix == ".json" else SentencePieceEngine(file, content)
    return Tokenizer(path, engine, file)


def same_ids(one: Tokenizer, other: Tokenizer) -> bool:
    """Return whether two tokenizers have the same vocabulary, and give the same ids for texts that show their rules."""
    same = [one.piece(i) for i in range(one.vocab_size)] == [other.piece(i) for i in range(other.vocab_size)]
    return same and all(one.encode(text) == other.encode(text) for text in _RULES_SHOW)


def folder_fingerprints(folder: Path) -> tuple[str, ...]:
    """Return the fingerprints of the tokenizer files in a model folder; none if there are none.

    That of ``tokenizer.json`` comes last. Nothing is loaded: also a tokenizer that training could not use has one.
    """
    found = []
    for name in (MODEL_FILE, *_OTHER_FILES):
        if (folder / name).is_file():
            found.append(hashlib.sha256((folder / name).read_bytes()).hexdigest())
    if (folder / EXPORTED_FILE).is_file():
        content = (folder / EXPORTED_FILE).read_bytes()
        try:
            found.append(rules_fingerprint(without_parsing(json.loads(content))))
        except (ValueError, KeyError, TypeError, AttributeError):  # not a file of the library that we know
            found.append(hashlib.sha256(content).hexdigest())
    return tuple(found)


def _tokenizer_file(path: Path) -> Path:
    """Return the file to load for ``path``."""
    if path.is_dir():
        files = [path / name for name in (MODEL_FILE, EXPORTED_FILE) if (path / name).is_file()]
        files += sorted(path.glob("*.model"))
        if not files:
            raise UserError(f"{path}: neither {MODEL_FILE} nor {EXPORTED_FILE} in this folder; give {_KINDS}")
        return files[0]
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; give {_KINDS}")
    if path.suffix not in (".model", ".json"):
        raise UserError(f"{path}: not a tokenizer by its name; give {_KINDS}")
    return path
