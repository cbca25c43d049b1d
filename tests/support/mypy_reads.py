"""A plugin for mypy that writes down every read of an attribute of the recipe's sections: ``NAME FILE LINE``.

mypy knows the type of what stands before the dot, so ``phase.name`` and ``path.name`` are told apart. Used by
``tests/config/test_every_key_is_read.py``; the file to write is named by the environment.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from mypy.plugin import AttributeContext, MethodContext, Plugin
from mypy.types import Type

OUTPUT = "MMBERT_ATTRIBUTE_READS"
CONFIG = "megatron_mmbert.config."


class ReadsOfSections(Plugin):
    """Calls :meth:`_note` for attributes and methods of classes in ``megatron_mmbert.config``."""

    def get_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        """Return the hook for a class of the recipe; it leaves the type as it is."""
        if not fullname.startswith(CONFIG):
            return None

        def hook(context: AttributeContext) -> Type:
            self._note(fullname, context)
            return context.default_attr_type

        return hook

    def get_method_hook(self, fullname: str) -> Callable[[MethodContext], Type] | None:
        """Return the same for calls of methods."""
        if not fullname.startswith(CONFIG):
            return None

        def hook(context: MethodContext) -> Type:
            self._note(fullname, context)
            return context.default_return_type

        return hook

    def _note(self, fullname: str, context: AttributeContext | MethodContext) -> None:
        path = context.api.path  # type: ignore[attr-defined]
        with Path(os.environ[OUTPUT]).open("a", encoding="utf-8") as file:
            file.write(f"{fullname.removeprefix(CONFIG)} {path} {context.context.line}\n")


def plugin(version: str) -> type[Plugin]:
    """Return the plugin, as mypy asks for it."""
    return ReadsOfSections
