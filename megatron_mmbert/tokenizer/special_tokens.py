"""The fixed part of a vocabulary and its names: five special ids first, as in Gemma 2, then white space and bytes."""

from __future__ import annotations

from megatron_mmbert.tokenizer.whitespace import SPACE, whitespace_pieces
from megatron_mmbert.utils.errors import UserError

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


def find_specials(ids: dict[str, int], path: object) -> dict[str, int]:
    """Return the id of each role, found by the piece's name.

    Raises:
        UserError: a role has no piece; the sentence names ``path`` and all missing ones.
    """
    found = {role: [ids[name] for name in names if name in ids] for role, names in _NAMES.items()}
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
