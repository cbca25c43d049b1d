"""Packed, unpadded encoding with an exported model: embeddings and MLM scores of texts of any lengths.

::

    model = load_model(Path("runs/mine/hf"))
    embeddings_ND = encode(model, ["Ein Satz.", "A longer one, and one more."])

or from the shell: ``python -m megatron_mmbert.inference --help``.
"""

from __future__ import annotations

from megatron_mmbert.inference.model import Model, load_model
from megatron_mmbert.inference.run import encode, score

__all__ = ["Model", "encode", "load_model", "score"]
