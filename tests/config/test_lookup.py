"""Values of a recipe for shell scripts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from megatron_mmbert.config.loading import lookup
from megatron_mmbert.utils.errors import UserError

VALUES = {"name": "a", "merge": {"models": ["x", "y"], "weights": None}, "phases": [{"name": "p", "tokens": 5}]}


@pytest.mark.parametrize(
    ("key", "value"),
    [("name", "a"), ("merge.models", ["x", "y"]), ("phases.p.tokens", 5), ("merge.weights", None)],
)
def test_lookup(key: str, value: object) -> None:
    assert lookup(VALUES, key) == value


def test_unknown_key_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no key 'modles' there .did you mean 'models'"):
        lookup(VALUES, "merge.modles")


def test_command_prints_a_list_one_item_a_line() -> None:
    command = [sys.executable, "-m", "megatron_mmbert.config.show", "examples/quickstart.yaml"]
    done = subprocess.run([*command, "merge.models"], capture_output=True, text=True)
    assert done.stdout.split("\n") == ["decay_eng", "decay_cont", "decay_all", ""], done.stderr
    done = subprocess.run([*command, "name", "name=other"], capture_output=True, text=True)
    assert done.stdout == "other\n"
