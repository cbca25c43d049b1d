"""Two kinds of tokenizer file with one interface: a SentencePiece ``.model`` and a ``tokenizer.json``.

Neither parses special tokens from text: a document that contains the characters ``<mask>`` or ``<bos>`` gives ordinary
pieces, never the special id. In training data such text is text (a manual of this very program has it), and a model
must not meet a mask that nobody set.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sentencepiece
import tokenizers

from megatron_mmbert.tokenizer import export
from megatron_mmbert.tokenizer.compiled_bpe import CompiledBPE, compiled_bpe
from megatron_mmbert.tokenizer.expansion import check_expansion
from megatron_mmbert.tokenizer.sentencepiece_proto import Kind, parse_model
from megatron_mmbert.tokenizer.special_tokens import MODEL_FILE, SPECIAL_NAMES, bytes_of_piece, find_specials
from megatron_mmbert.tokenizer.word_cache import WordCache, has_separate_words
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import atomic_file, to_json


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

    @abstractmethod
    def bytes_of(self, piece: str) -> int:
        """Return the UTF-8 bytes that an ordinary piece stands for."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return the SHA-256 of all that decides which ids a text gets."""

    @abstractmethod
    def exported_fingerprint(self) -> str:
        """Return the fingerprint of the ``tokenizer.json`` that :meth:`save` writes; empty if it would refuse to."""

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

    def bytes_of(self, piece: str) -> int:
        return bytes_of_piece(piece)

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
        """Parse ``content``.

        Raises:
            UserError: it is no ``tokenizer.json``, or one without the five special tokens.
        """
        try:
            description = without_parsing(json.loads(content))
            self._backend = tokenizers.Tokenizer.from_str(to_json(description))
        except Exception as error:  # the library raises bare Exception
            raise UserError(
                f"{path}: no tokenizer.json of the tokenizers library or a damaged one ({error}); copy it again"
            ) from None
        check_expansion(description.get("normalizer"), path)
        self._backend.encode_special_tokens = True
        ids = self._backend.get_vocab(with_added_tokens=True)
        self.specials = find_specials(ids, path)
        self.pieces = [""] * (max(ids.values()) + 1)
        for piece, i in ids.items():
            self.pieces[i] = piece
        self._description = description
        self._byte_level = "ByteLevel" in to_json(description["decoder"])
        special = {token["id"] for token in description["added_tokens"] if token["special"]}
        self.special_ids = frozenset(special | set(self.specials.values()))

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: list[int]) -> str:
        return str(self._backend.decode(ids, skip_special_tokens=False))

    def bytes_of(self, piece: str) -> int:
        # In a byte-level vocabulary every character of a piece stands for one byte.
        return len(piece) if self._byte_level else bytes_of_piece(piece)

    def fingerprint(self) -> str:
        return rules_fingerprint(self._description)

    def exported_fingerprint(self) -> str:
        return self.fingerprint()

    def save(self, folder: Path) -> None:
        export.write_folder(self._backend, self.names(), self.specials, folder)


def rules_fingerprint(description: dict[str, Any]) -> str:
    """Return the SHA-256 of the rules and the vocabulary in a ``tokenizer.json`` as :func:`without_parsing` gives it.

    Not of the file: versions of the library write it differently.
    """
    model = description["model"]
    merges = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model.get("merges", [])]
    rules = {key: description[key] for key in ("normalizer", "pre_tokenizer", "added_tokens")}
    rules |= {"type": model["type"], "vocab": model["vocab"], "merges": merges}
    text = to_json(rules, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def without_parsing(description: dict[str, Any]) -> dict[str, Any]:
    """Return a ``tokenizer.json`` whose five tokens are special, and which neither truncates documents nor pads them.

    Gemma's file has ``<mask>`` as an ordinary added token, which is found in any text; truncation and padding may be
    saved in a file and would then change every document without a word.
    """
    for token in description["added_tokens"]:
        token["special"] = token["special"] or token["content"] in SPECIAL_NAMES
    return description | {"truncation": None, "padding": None}
