"""The additions that CONTRIBUTING.md describes, made in a copy of the sources: each works with its two files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from support import ROOT

PACKAGE = "megatron_mmbert"


class Addition(NamedTuple):
    """What a contributor writes: new files, lines before or after others, and a program that uses the result."""

    heading: str
    files: dict[str, str]
    edits: dict[str, list[tuple[str, str]]]
    use: str


ADDITIONS = [
    Addition(
        "An attention engine",
        {
            "attention/engines/novel.py": "from megatron_mmbert.attention.engines.eager import *  # attend, ...\n",
        },
        {
            "attention/__init__.py": [
                ("_ALL = (\n", '_ALL = (\n    Engine("novel", novel.attend, novel.unsupported_reason),\n'),
                ("import cpu,", "import novel, cpu,"),
            ]
        },
        """
import torch
from megatron_mmbert.attention import ENGINES, Request, SequenceLayout, attend, choose
request = Request("cpu", torch.float32, 4, 2, backward=False)
assert choose("novel", request, heads=2).name == choose("auto", request, heads=2).name == "novel"
q, k, v = torch.randn(3, 8, 2, 4)
layout = SequenceLayout(torch.tensor([0, 3, 8], dtype=torch.int32), 5)
assert torch.equal(ENGINES["novel"](q, k, v, layout, 2), ENGINES["eager"](q, k, v, layout, 2))
""",
    ),
    Addition(
        "An input format",
        {
            "data/text/csv_reader.py": """
import csv
from megatron_mmbert.data.text.records import BadLine, Document

class CsvReader:
    def __init__(self, path, fields, max_bytes):
        self.path, self.fields, self.position = path, fields, 0

    def __iter__(self):
        with self.path.open(newline="") as file:
            for number, row in enumerate(csv.DictReader(file), 1):
                yield number, row

def parse_csv(path, line, row, fields):
    text = row.get(fields.text)
    return Document(f"{path}:{line}", text, line) if text else BadLine(str(path), line, "no text")
"""
        },
        {
            "data/text/formats.py": [
                ("FORMATS = (\n", 'FORMATS = (\n    Format((".csv",), CsvReader, parse_csv),\n'),
                (
                    "from megatron_mmbert.data.text.line_reader",
                    "from megatron_mmbert.data.text.csv_reader import CsvReader, parse_csv\n"
                    "from megatron_mmbert.data.text.line_reader",
                ),
            ]
        },
        """
import tempfile
from pathlib import Path
from megatron_mmbert.data.text.documents import find_inputs, read_documents
folder = Path(tempfile.mkdtemp())
(folder / "eng_Latn.csv").write_text("id,text\\n1,one\\n2,two\\n")
assert [document.text for path in find_inputs([folder]) for document in read_documents(path)] == ["one", "two"]
from megatron_mmbert.cli import run_cli
run_cli(["split-heldout", "--input", str(folder), "--output", str(folder / "split"), "--share", "0.5"])
assert (folder / "split/train").exists()
""",
    ),
    Addition(
        "A merge method",
        {},
        {
            "merge/methods.py": [
                (
                    '    "linear": lambda',
                    '    "max": lambda _, models, __: Merged(torch.stack([*models]).amax(0)),\n    "linear": lambda',
                )
            ],
            "config/merge.py": [
                ('    "linear": MergeMethod(', '    "max": MergeMethod(()),\n    "linear": MergeMethod(')
            ],
        },
        """
import contextlib, io, torch
from megatron_mmbert.cli import run_cli
from megatron_mmbert.config.merge import MergeConfig, MergeOptions
from megatron_mmbert.merge.methods import merge_tensor
merged = merge_tensor("max", None, [torch.tensor([1.0, 4.0]), torch.tensor([2.0, 3.0])], MergeOptions())
assert merged.tensor.tolist() == [2.0, 4.0]
assert MergeConfig(models=["a", "b"], method="max").method == "max"
with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
    run_cli(["merge", "--help"])
assert "max" in said.getvalue()
""",
    ),
    Addition(
        "A decay shape of the learning rate",
        {},
        {
            "optim/schedule.py": [('{"one_minus_sqrt": ', '{"none": lambda x, final: 1.0, "one_minus_sqrt": ')],
            "config/phase.py": [('Literal["one_minus_sqrt"', 'Literal["none", "one_minus_sqrt"')],
        },
        """
from megatron_mmbert.config.phase import LRConfig
from megatron_mmbert.optim.schedule import LRSchedule, lr_at
assert LRConfig(decay="none").decay == "none"
assert lr_at(95, LRSchedule(1e-3, 0, 50, 100, decay="none")) == 1e-3
""",
    ),
    Addition(
        "A number in the log",
        {},
        {
            "train/metrics.py": [
                (
                    "    skipped: bool = False\n",
                    '    packs: int = field(default=0, metadata=shown("packs {}", track=True))\n'
                    "    skipped: bool = False\n",
                )
            ],
            "train/loop.py": [("        loss=loss,\n", "        loss=loss,\n        packs=len(packs),\n")],
        },
        """
import ast, dataclasses, inspect
from megatron_mmbert.train import loop
from megatron_mmbert.train.metrics import StepMetrics
numbers = {each.name: 1 for each in dataclasses.fields(StepMetrics) if each.init}
metrics = StepMetrics(**numbers | {"packs": 7})
assert "packs 7" in metrics.columns()
assert metrics.to_json()["packs"] == 7 and metrics.tracked()["train/packs"] == 7.0
calls = [node for node in ast.walk(ast.parse(inspect.getsource(loop.take_step))) if isinstance(node, ast.Call)]
made = next(call for call in calls if getattr(call.func, "id", "") == "StepMetrics")
assert {key.arg for key in made.keywords} == set(numbers)
""",
    ),
]


@pytest.mark.parametrize("addition", ADDITIONS, ids=lambda addition: addition.heading)
def test_addition(addition: Addition, tmp_path: Path) -> None:
    shutil.copytree(ROOT / PACKAGE, tmp_path / PACKAGE, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name, text in addition.files.items():
        (tmp_path / PACKAGE / name).write_text(text, encoding="utf-8")
    for name, edits in addition.edits.items():
        path = tmp_path / PACKAGE / name
        source = path.read_text(encoding="utf-8")
        for old, new in edits:
            assert source.count(old) == 1, f"{name}: {old!r}"
            source = source.replace(old, new)
        path.write_text(source, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", addition.use]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("addition", ADDITIONS, ids=lambda addition: addition.heading)
def test_contributing_names_these_files(addition: Addition) -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = page.split(f"### {addition.heading}\n")[1].split("\n### ")[0]
    touched = {name.replace("novel", "NAME").replace("csv_", "NAME_") for name in [*addition.files, *addition.edits]}
    assert len(touched) == 2
    assert set(re.findall(rf"^\d\. `{PACKAGE}/([^`]+)`", section, re.MULTILINE)) == touched
