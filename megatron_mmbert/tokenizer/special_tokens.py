"""The fixed part of a vocabulary and its names: five special ids first, as in Gemma 2, then white space and bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from megatron_mmbert.tokenizer.whitespace import SPACE, whitespace_pieces
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import read_json

SPECIAL_PIECES = {"pad": "<pad>", "eos": "<eos>", "bos": "<bos>", "unk": "<unk>", "mask": "<mask>"}
"""Role to piece; the order is the order of the ids 0 to 4 in a tokenizer trained here."""

_NAMES = {
    "pad": ("<pad>", "[PAD]"),
    "eos": ("<eos>", "</s>", "[SEP]"),
    "bos": ("<bos>", "<s>", "[CLS]"),
    "unk": ("<unk>", "[UNK]"),
    "mask": ("<mask>", "[MASK]"),
}
"""Role to names, Gemma's before T5's and BERT's."""

SPECIAL_NAMES = frozenset(name for names in _NAMES.values() for name in names)

BYTE_PIECES = 256
MODEL_FILE = "tokenizer.model"
EXPORTED_FILE = "tokenizer.json"
"""The exported tokenizer: Hugging Face's file with the ids of the SentencePiece model."""

FIXED_PIECES = len(SPECIAL_PIECES) + BYTE_PIECES + len(whitespace_pieces())
"""The number of pieces of a vocabulary that are not learned: special tokens, bytes, newline, tab and runs."""


_DECLARING_FILES = ("tokenizer_config.json", "special_tokens_map.json")
_DECLARED = {role: (f"{role}_token",) for role in SPECIAL_PIECES} | {
    "bos": ("bos_token", "cls_token"),
    "eos": ("eos_token", "sep_token"),
}
"""Role to the keys of transformers' files that name its token."""


def declared_roles(folder: Path) -> dict[str, str]:
    """Return role to token, as the files of transformers in ``folder`` declare them; {} if they declare none.

    Raises:
        UserError: a file is damaged.
    """
    declared: dict[str, str] = {}
    for name in _DECLARING_FILES:
        if not (folder / name).is_file():
            continue
        values = read_json(folder / name, "settings of the tokenizer", "copy it again or take it away")
        values = values if isinstance(values, dict) else {}
        for role, keys in _DECLARED.items():
            for key in keys:
                token = values.get(key)
                token = token.get("content") if isinstance(token, dict) else token
                if isinstance(token, str):
                    declared.setdefault(role, token)
    return declared


def find_specials(
    ids: dict[str, int],
    path: object,
    declared: Mapping[str, str] = MappingProxyType({}),
    knows_every_text: bool = False,
) -> dict[str, int]:
    """Return the id of each role: the token that is declared for it, else one of its usual names.

    ``knows_every_text``: no text gives the unknown token; if there is none, that of padding has its role.

    Raises:
        UserError: a role has no piece, or one that is declared is missing; the sentence names ``path``.
    """
    for role, name in declared.items():
        if name not in ids:
            raise UserError(f"{path}: has no {name!r}, which {' or '.join(_DECLARING_FILES)} declares as {role} token")
    found = {
        role: [ids[name] for name in ([declared[role]] if role in declared else names) if name in ids]
        for role, names in _NAMES.items()
    }
    if knows_every_text:
        found["unk"] = found["unk"] or found["pad"]
    missing = [SPECIAL_PIECES[role] for role, candidates in found.items() if not candidates]
    if missing:
        raise UserError(
            f"{path}: the tokenizer has no {', '.join(missing)} token; add it, or train one with "
            "tools/train_tokenizer.py"
        )
    return {role: candidates[0] for role, candidates in found.items()}


def bytes_of_piece(piece: str) -> int:
    """Return the UTF-8 bytes of text that a learned piece, a run or a byte piece stands for (``▁`` is one space)."""
    if is_byte_piece(piece):
        return 1
    return len(piece.replace(SPACE, " ").encode("utf-8"))


def is_byte_piece(piece: str) -> bool:
    """Tell if ``piece`` is one of ``<0x00>`` to ``<0xFF>``."""
    return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")
