"""One value of a recipe, for shell scripts: ``python -m megatron_mmbert.config.show RECIPE.yaml merge.models``.

Prints a value on one line, a list one item a line, and nothing for a value that is not set.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from megatron_mmbert.config.loading import load_recipe
from megatron_mmbert.utils.errors import UserError, nearest, run_command


def lookup(values: Any, path: str) -> Any:
    """The value at ``key.key.key``; of a list, items are found by their ``name`` or index.

    Raises:
        UserError: no such key.
    """
    for key in path.split("."):
        if isinstance(values, list):
            values = {
                str(item.get("name", at)) if isinstance(item, dict) else str(at): item for at, item in enumerate(values)
            }
        if not isinstance(values, dict) or key not in values:
            known = [str(name) for name in values] if isinstance(values, dict) else []
            raise UserError(f"{path}: the recipe has no key {key!r} there{nearest(key, known)}")
        values = values[key]
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("key", help="such as name, merge.models or phases.pretrain.tokens")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="recipe values to replace")
    arguments = parser.parse_args()
    value = lookup(load_recipe(arguments.recipe, arguments.overrides).to_dict(), arguments.key)
    for item in value if isinstance(value, list) else [] if value is None else [value]:
        print(item)


if __name__ == "__main__":
    run_command(main)
