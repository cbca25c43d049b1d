"""The SentencePiece model as a protocol buffer: its pieces and rules, which the library's own reader does not show."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

# The generated module makes its classes when it is imported, out of sight of a type checker.
_generated: Any = sentencepiece_model_pb2

Kind: Any = _generated.ModelProto.SentencePiece
"""The kinds of piece: ``Kind.NORMAL``, ``UNKNOWN``, ``CONTROL``, ``USER_DEFINED``, ``BYTE``, ``UNUSED``."""

NormalizerSpec: Any = _generated.NormalizerSpec
BPE: int = _generated.TrainerSpec.BPE


def parse_model(content: bytes) -> Any:
    """Return the ``ModelProto`` in a ``.model`` file.

    Raises:
        ValueError: ``content`` is none.
    """
    proto = _generated.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        raise ValueError(str(error)) from None
    if not proto.pieces:
        raise ValueError("no pieces in it")
    for index, piece in enumerate(proto.pieces):
        if not isinstance(piece.piece, str):  # bytes where they are no UTF-8
            raise ValueError(f"piece {index} is no UTF-8")
    return proto
