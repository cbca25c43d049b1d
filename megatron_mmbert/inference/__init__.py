"""Packed, unpadded encoding with an exported model: embeddings and MLM scores of texts of any lengths.

::

    model = load_model(Path("runs/mine/hf"))
    embeddings_ND = encode(model, ["Ein Satz.", "A longer one, and one more."])

or from the shell: ``mmbert encode --help``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megatron_mmbert.inference.model import Model, load_model
    from megatron_mmbert.inference.run import encode, score

__all__ = ["Model", "encode", "load_model", "score"]
_MODULES = {"Model": "model", "load_model": "model", "encode": "run", "score": "run"}


def __getattr__(name: str) -> Any:
    """Import a name of ``__all__`` when it is first asked for: the command line reads ``options`` without torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
