"""Two kinds of tokenizer file with one interface: a SentencePiece ``.model`` and a ``tokenizer.json``.

Neither parses special tokens from text: a document that contains the characters ``<mask>`` or ``<bos>`` gives ordinary
pieces, never the special id. In training data such text is text (a manual of this very program has it), and a model
must not meet a mask that nobody set.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sentencepiece
import tokenizers

from megatron_mmbert.tokenizer import export
from megatron_mmbert.tokenizer.compiled_bpe import CompiledBPE, compiled_bpe
from megatron_mmbert.tokenizer.json_rules.compiled_merges import CompiledMerges, compiled_merges
from megatron_mmbert.tokenizer.json_rules.expansion import check_expansion
from megatron_mmbert.tokenizer.json_rules.spelling import is_byte_level, literal, spelling_of
from megatron_mmbert.tokenizer.json_rules.text_only import text_only
from megatron_mmbert.tokenizer.sentencepiece_proto import Kind, parse_model
from megatron_mmbert.tokenizer.special_tokens import (
    EXPORTED_FILE,
    MODEL_FILE,
    SPECIAL_NAMES,
    bytes_of_piece,
    declared_roles,
    find_specials,
)
from megatron_mmbert.tokenizer.word_cache import WordCache, has_separate_words
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import atomic_file, to_json

_UNCUT = {"truncation": None, "padding": None}
"""Truncation and padding may be saved in a file, and would change every document without a word."""


_ENTRIES_AT_ONCE = 10_000


class Engine(ABC):
    """The interface of a tokenizer file to :class:`~megatron_mmbert.tokenizer.load.Tokenizer`."""

    pieces: list[str]
    """The piece of each id; an empty string for an id without one."""
    specials: dict[str, int]
    """Role (pad, eos, bos, unk, mask) to id."""
    special_ids: frozenset[int]
    """Every id that no text gives: the five roles and other control tokens."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``, without ``<bos>`` and ``<eos>``."""

    def encode_arrays(self, texts: list[str]) -> list[npt.NDArray[np.int32]]:
        """Return the ids of each text, int32 [tokens]; faster for many texts."""
        return [np.array(self.encode(text), dtype=np.int32) for text in texts]

    @abstractmethod
    def decode(self, ids: list[int]) -> str:
        """Return the text of ``ids``, none of them special."""

    def spelled(self, token_id: int) -> str:
        """Return a piece as SentencePiece would write it: ``▁`` for a space, ``<0xE4>`` for a byte."""
        return self.pieces[token_id]

    def bytes_of(self, token_id: int) -> int:
        """Return the UTF-8 bytes that an ordinary piece stands for."""
        return bytes_of_piece(self.spelled(token_id))

    @abstractmethod
    def fingerprint(self) -> str:
        """Return the SHA-256 of all that decides which ids a text gets."""

    @abstractmethod
    def exported_fingerprint(self) -> str:
        """Return the fingerprint of the ``tokenizer.json`` that :meth:`save` writes; empty if it would refuse to.

        Or, of one that it wrote, of the file that it may come from.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the Hugging Face files, and the ``.model`` if this is one."""

    def names(self) -> dict[str, str]:
        """Return role to piece."""
        return {role: self.pieces[i] for role, i in self.specials.items()}


class SentencePieceEngine(Engine):
    """A SentencePiece ``.model`` file."""

    def __init__(self, path: Path, content: bytes) -> None:
        """Parse ``content``.

        Raises:
            UserError: it is no SentencePiece model, or one without the five special tokens.
        """
        self._path = path
        self._content = content
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._proto = parse_model(content)
            self.pieces = [piece.piece for piece in self._proto.pieces]
            self.specials = find_specials({piece: i for i, piece in enumerate(self.pieces)}, path)
            for i in self.specials.values():
                # Gemma's own file has <mask> as a user-defined piece, which text can spell; a control piece it cannot.
                if self._proto.pieces[i].type == Kind.USER_DEFINED:
                    self._proto.pieces[i].type = Kind.CONTROL
            self._processor.LoadFromSerializedProto(self._proto.SerializeToString())
        except (RuntimeError, ValueError, TypeError) as error:
            raise UserError(
                f"{path}: no SentencePiece model or a damaged one ({error}); copy or train it again"
            ) from None
        kinds = (Kind.CONTROL, Kind.UNKNOWN)
        control = {i for i, piece in enumerate(self._proto.pieces) if piece.type in kinds}
        self.special_ids = frozenset(control | set(self.specials.values()))
        self._words: CompiledBPE | WordCache | None = compiled_bpe(self._proto)
        if self._words is None and has_separate_words(self._proto):
            self._words = WordCache(self._processor.encode)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._processor.encode(text)
        return ids

    def encode_arrays(self, texts: list[str]) -> list[npt.NDArray[np.int32]]:
        return super().encode_arrays(texts) if self._words is None else self._words.encode(texts)

    def decode(self, ids: list[int]) -> str:
        return str(self._processor.decode(ids)) if ids else ""

    def fingerprint(self) -> str:
        return hashlib.sha256(self._content).hexdigest()

    def exported_fingerprint(self) -> str:
        try:
            exported = export.build_exported(self._proto, self._path)
        except UserError:
            return ""
        return rules_fingerprint(without_parsing(json.loads(exported.to_str())))

    def save(self, folder: Path) -> None:
        exported = export.build_exported(self._proto, self._path)
        export.write_folder(exported, self.names(), self.specials, folder)
        with atomic_file(folder / MODEL_FILE) as staging:
            staging.write_bytes(self._content)


class JsonEngine(Engine):
    """A ``tokenizer.json`` of the `tokenizers` library: Gemma's layout, one exported here, or a byte-level BPE."""

    def __init__(self, path: Path, content: bytes) -> None:
        """Parse ``content``; the roles of its tokens are as the files beside it declare, else by their names.

        Raises:
            UserError: it is no ``tokenizer.json``, or one without the five special tokens.
        """
        declared = declared_roles(path.parent) if path.name == EXPORTED_FILE else {}
        with _damaged(path):
            description = json.loads(content)
            self._identity = without_parsing(description)
            ids = _ids(description)
        self.specials = find_specials(ids, path, declared, _knows_every_text(description))
        with _damaged(path):
            self._description = _with_roles(description, self.specials)
            self._backend = tokenizers.Tokenizer.from_str(to_json(self._description))
        check_expansion(description.get("normalizer"), path)
        self._backend.encode_special_tokens = True
        self.pieces = [""] * (max(ids.values()) + 1)
        for piece, i in ids.items():
            self.pieces[i] = piece
        self._added = {token["id"] for token in description["added_tokens"]}
        self._byte_level = is_byte_level(description)
        self._spell = spelling_of(description)
        special = {token["id"] for token in description["added_tokens"] if token["special"]}
        self.special_ids = frozenset(special | set(self.specials.values()))
        self._never = self.special_ids - {self.specials["unk"]}

    def encode(self, text: str) -> list[int]:
        return self._as_text(text, self._backend.encode(text, add_special_tokens=False).ids)

    def _as_text(self, text: str, ids: list[int]) -> list[int]:
        """Return the ids of a text; a special token that it only spells gets ordinary pieces."""
        if self._never.isdisjoint(ids):
            return ids
        again: list[int] = self._text_only.encode(text, add_special_tokens=False).ids
        return again

    @cached_property
    def _text_only(self) -> tokenizers.Tokenizer:
        """The tokenizer for texts in which the model itself finds special tokens; made when the first one comes."""
        return tokenizers.Tokenizer.from_str(to_json(text_only(self._description, self._never)))

    @cached_property
    def _merges(self) -> CompiledMerges | None:
        """The compiled encoder; seconds of work for a vocabulary like Gemma's."""
        return compiled_merges(self._description)

    def encode_arrays(self, texts: list[str]) -> list[npt.NDArray[np.int32]]:
        if self._merges is not None:
            return self._merges.encode(texts)
        encoded = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        together = zip(texts, encoded, strict=True)
        return [np.array(self._as_text(text, one.ids), dtype=np.int32) for text, one in together]

    def decode(self, ids: list[int]) -> str:
        return str(self._backend.decode(ids, skip_special_tokens=False))

    def spelled(self, token_id: int) -> str:
        piece = self.pieces[token_id]
        return literal(piece) if token_id in self._added else self._spell(piece)

    def bytes_of(self, token_id: int) -> int:
        if self._byte_level and token_id not in self._added:
            return len(self.pieces[token_id])  # a part of a character may be spelled as nothing or as one byte
        return super().bytes_of(token_id)

    @cached_property
    def _fingerprint(self) -> str:
        return rules_fingerprint(self._identity)

    def fingerprint(self) -> str:
        return self._fingerprint

    def exported_fingerprint(self) -> str:
        mask = self.specials["mask"]
        added = [
            token | {"lstrip": not token["lstrip"]} if token["id"] == mask else token
            for token in self._identity["added_tokens"]
        ]
        return rules_fingerprint(self._identity | {"added_tokens": added})

    def save(self, folder: Path) -> None:
        export.write_folder(self._backend, self.names(), self.specials, folder)
        if self._description["model"]["type"] == "Unigram":
            # The library reads a number by its last digit otherwise: the scores, which are part of the identity.
            written = json.loads((folder / EXPORTED_FILE).read_text(encoding="utf-8"))
            written["model"]["vocab"] = self._description["model"]["vocab"]
            with atomic_file(folder / EXPORTED_FILE) as staging:
                staging.write_text(to_json(written, ensure_ascii=False), encoding="utf-8")


@contextmanager
def _damaged(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes a reader raise into one sentence."""
    try:
        yield
    except Exception as error:  # the library raises bare Exception
        raise UserError(
            f"{path}: no tokenizer.json of the tokenizers library or a damaged one ({error}); copy it again"
        ) from None


def rules_fingerprint(description: dict[str, Any]) -> str:
    """Return the SHA-256 of the rules and the vocabulary in a ``tokenizer.json`` as :func:`without_parsing` gives it.

    Not of the file: versions of the library write it differently.
    """
    model = description["model"]
    rules = {key: description[key] for key in ("normalizer", "pre_tokenizer", "added_tokens")}
    rules |= {"type": model["type"], "vocab": model["vocab"], "merges": model.get("merges", [])}
    digest = hashlib.sha256()
    for text in _written(rules):
        digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _written(rules: dict[str, Any]) -> Iterator[str]:
    """Yield ``rules`` as JSON, some at a time: of a vocabulary as Gemma's the whole takes 200 MB in the making."""
    yield "{"
    for number, key in enumerate(sorted(rules)):
        value = rules[key]
        yield f"{', ' if number else ''}{to_json(key, ensure_ascii=False)}: "
        if not isinstance(value, list | dict):
            yield to_json(value, ensure_ascii=False)
            continue
        opened, closed = "[]" if isinstance(value, list) else "{}"
        yield opened
        entries = value if isinstance(value, list) else sorted(value.items())
        for first in range(0, len(entries), _ENTRIES_AT_ONCE):
            some = entries[first : first + _ENTRIES_AT_ONCE]
            if key == "merges":
                some = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in some]
            text = to_json(some if isinstance(value, list) else dict(some), sort_keys=True, ensure_ascii=False)
            yield f"{', ' if first else ''}{text[1:-1]}"
        yield closed
    yield "}"


def without_parsing(description: dict[str, Any]) -> dict[str, Any]:
    """Return the form of a ``tokenizer.json`` that its identity is taken of: every name of a special token is special.

    So it was when the first stores were made.
    """
    added = [
        token | {"special": token["special"] or token["content"] in SPECIAL_NAMES}
        for token in description["added_tokens"]
    ]
    return description | {"added_tokens": added} | _UNCUT


def _ids(description: dict[str, Any]) -> dict[str, int]:
    """Return piece to id, added tokens included."""
    vocab = description["model"]["vocab"]
    ids = dict(vocab) if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}
    return ids | {token["content"]: token["id"] for token in description["added_tokens"]}


def _with_roles(description: dict[str, Any], specials: dict[str, int]) -> dict[str, Any]:
    """Return a ``tokenizer.json`` whose five tokens are special, with a ``<mask>`` that takes the spaces before it.

    Gemma's file has ``<mask>`` as an ordinary added token, which is found in any text. Its HTML tags ``<s>`` and
    ``</s>`` have a role in other files and none there: they stay what they are.
    """
    roles = set(specials.values())
    added = [
        token
        | {
            "special": token["special"] or token["id"] in roles,
            "lstrip": token["lstrip"] or token["id"] == specials["mask"],
        }
        for token in description["added_tokens"]
    ]
    return description | {"added_tokens": added} | _UNCUT


def _knows_every_text(description: dict[str, Any]) -> bool:
    """Tell if no text gives the unknown token: what has no piece is written in bytes."""
    return is_byte_level(description) or bool(description["model"].get("byte_fallback"))
