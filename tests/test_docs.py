"""The documentation: its generated pages, and the site, each seen to fail when broken once."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

BIN = Path(sys.executable).parent
PAGES = ("recipe.md", "commands.md")


def reference(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", str(root / "tools/make_reference.py"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of what the documentation is made from."""
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.json")
    for folder in ("docs", "tools", "megatron_mmbert"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    for name in ("mkdocs.yml", "CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    for result in (ROOT / "docs/results").glob("*.json"):
        (tmp_path / "docs/results" / result.name).touch()
    return tmp_path


def test_reference_follows_schema_and_parsers(copy: Path) -> None:
    assert reference(copy).returncode == 0
    before = {name: (copy / "docs/reference" / name).read_text(encoding="utf-8") for name in PAGES}
    assert reference(copy, "--check").returncode == 0
    changes = {
        "commands/model/merge.py": ('"--density"', '"--thickness"'),
        "config/model.py": ("within(1, MAX_LAYERS)] = 22", "within(1, MAX_LAYERS)] = 23"),
    }
    for name, (old, new) in changes.items():
        path = copy / "megatron_mmbert" / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")
    done = reference(copy, "--check")
    assert done.returncode == 1
    for name in PAGES:
        assert f"docs/reference/{name} is not up to date" in done.stdout
        assert (copy / "docs/reference" / name).read_text(encoding="utf-8") == before[name]


def test_reference_wants_a_text_for_every_key(copy: Path) -> None:
    path = copy / "megatron_mmbert/config/model.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("    hidden_size: ", "    novel: int = 1\n    hidden_size: ", 1), encoding="utf-8")
    done = reference(copy, "--check")
    assert done.returncode == 1 and "model: novel has no docstring" in done.stdout


def build(root: Path) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "mkdocs"), "build", "--strict"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def test_site(copy: Path) -> None:
    """The site builds; it does not with a page that no menu names, and with an anchor that is not there."""
    done = build(copy)
    assert done.returncode == 0, done.stderr
    assert "../resilience" not in (copy / "site/what_happens_when.html").read_text(encoding="utf-8")
    assert 'href="contributing.html"' in (copy / "site/index.html").read_text(encoding="utf-8")
    page = copy / "docs" / "novel.md"
    page.write_text("# Novel\n", encoding="utf-8")
    done = build(copy)
    assert done.returncode == 1 and "novel.md" in done.stderr
    page.unlink()
    index = copy / "docs/index.md"
    index.write_text(index.read_text(encoding="utf-8") + "\n[a](install.md#absent)\n", encoding="utf-8")
    done = build(copy)
    assert done.returncode == 1 and "install.md#absent" in done.stderr


def source_strings() -> str:
    """Every string of the package's code, f-strings in pieces, and the job scripts."""
    strings = []
    for path in (ROOT / "megatron_mmbert").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                strings.append(node.value)
    return "\n".join([*strings, *(path.read_text(encoding="utf-8") for path in (ROOT / "slurm").glob("*.sh"))])


def test_documented_log_lines_are_printed() -> None:
    """Each line of the table of log lines has its fixed words, two or more in a row, in the code."""
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    table = page[page.index("## Log lines") : page.index("## Checkpoints")]
    lines = [
        line for row in re.findall(r"^\| (`.*?) \| ", table, re.MULTILINE) for line in re.findall(r"`([^`]+)`", row)
    ]
    assert len(lines) > 15
    text, absent = source_strings(), []
    for line in lines:
        for words in re.split(r"…|[][;:|()\\]|\b[A-Z]{2,}\b|\b[A-Z]\b|\b\d[\d.%/]*", line):
            if " " in words.strip(" ,") and words.strip(" ,") not in text:
                absent.append(f"{line}: {words.strip(' ,')!r}")
    assert not absent, "\n".join(absent)


def test_every_promise_names_tests_that_exist() -> None:
    """In the table, a name without a file is of the file named before it."""
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    table = text.split("## What is promised")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) >= 8
    for row in rows:
        file = ""
        for named in re.findall(r"`((?:tests/[a-z_/]+\.py::)?test_\w+)`", row.rpartition(" | ")[2]):
            file, _, name = named.rpartition("::") if "::" in named else (file, "", named)
            assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"
        assert file, f"no test is named in: {row}"
