"""Import of a package that only one callback needs."""

from __future__ import annotations

import importlib
from typing import Any

from megatron_mmbert.utils.errors import UserError


def required_package(name: str, key: str) -> Any:
    """Return the module ``name`` that the recipe's ``key`` asks for.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"{key}: the package {name} is not installed; pip install {name}, or take the key out"
        ) from None
