"""The files of requirements/ are whole: all that setup.py asks for, each package with a version and hashes."""

from __future__ import annotations

import ast
import re
from typing import Any

import pytest
from support import ROOT

LINE = re.compile(r"([a-z0-9][a-z0-9-]*)==(\S+)( ;.*)? \\")


def setup_arguments() -> dict[str, Any]:
    """The literal arguments of setup.py's call."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    call = next(
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    )
    wanted = ("install_requires", "extras_require")
    return {key.arg: ast.literal_eval(key.value) for key in call.keywords if key.arg in wanted}


def name_of(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower().replace("_", "-")


def pinned(name: str) -> dict[str, list[str]]:
    """(package, its hashes) of a file; a package may stand there once for some Pythons and once for others."""
    packages: dict[str, list[str]] = {}
    for line in (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if match := LINE.fullmatch(line):
            current = packages.setdefault(match[1], [])
        else:
            found = re.fullmatch(r"    --hash=sha256:([0-9a-f]{64})( \\)?", line)
            assert found, f"{name}: {line}"
            current.append(found[1])
    return packages


@pytest.mark.parametrize(("file", "extra"), [("user", "hf"), ("dev", "dev")])
def test_all_that_setup_asks_for_is_pinned_with_hashes(file: str, extra: str) -> None:
    arguments = setup_arguments()
    wanted = {name_of(each) for each in [*arguments["install_requires"], *arguments["extras_require"][extra]]}
    packages = pinned(file)
    assert wanted - {"torch"} <= set(packages)
    assert all(packages.values())
    assert not {name for name in packages if name == "torch" or name.startswith(("nvidia-", "cuda-"))}


def test_trackers_are_for_developers() -> None:
    assert {"wandb", "mlflow-skinny"} <= set(pinned("dev")) - set(pinned("user"))


def test_developers_have_the_users_versions() -> None:
    def versions(name: str) -> set[tuple[str, str]]:
        text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
        return {(match[1], match[2]) for line in text.splitlines() if (match := LINE.fullmatch(line))}

    assert versions("user") <= versions("dev")


def test_torch_is_pinned_alone() -> None:
    lines = (ROOT / "requirements/torch.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["torch==2.13.0"]
