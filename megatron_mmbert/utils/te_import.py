"""Transformer Engine is hidden where it does not load, before Megatron-Core tries it.

Megatron-Core guards its imports of Transformer Engine against ImportError alone, and takes a package for a whole one
whose part for PyTorch is missing. A library of another CUDA (OSError), a version check (AssertionError) or a driver's
error would end every import of ``megatron.core``, so that nothing runs, though nothing may need Transformer Engine.
Hidden, it is to all who import it as if it were not installed; the reason is kept.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from typing import Any

_NAME = "transformer_engine"
_checked = False
_problem: str | None = None


class _BeforeMegatron(MetaPathFinder):
    """Finds nothing; is asked before anything of Megatron-Core is imported, and checks Transformer Engine then."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname == "megatron.core":
            te_problem()


def guard_megatron() -> None:
    """Have Transformer Engine checked when Megatron-Core is first imported; until then nothing is imported."""
    if not any(isinstance(finder, _BeforeMegatron) for finder in sys.meta_path):
        sys.meta_path.insert(0, _BeforeMegatron())


def te_problem() -> str | None:
    """Return why Transformer Engine cannot be imported, in a few words; None where it is imported now.

    The first call imports it, or hides it for the rest of this process.
    """
    global _checked, _problem
    if not _checked:
        _checked = True
        _problem = _import_or_hide()
    return _problem


def _import_or_hide() -> str | None:
    try:
        import_module(f"{_NAME}.pytorch")
    except Exception as error:  # whatever its libraries raise
        if isinstance(error, ModuleNotFoundError) and error.name == _NAME:
            return "Transformer Engine is not installed"
        for name in [each for each in sys.modules if each.split(".")[0] == _NAME]:
            del sys.modules[name]
        sys.modules[_NAME] = None  # type: ignore[assignment]  # Python's own way to have an import fail
        return f"Transformer Engine cannot be loaded: {(str(error).splitlines() or [type(error).__name__])[0]}"
    return None
