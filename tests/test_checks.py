"""Each check of tools/checks.sh fails when what it checks is broken once, and says where."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

BIN = Path(sys.executable).parent
GOOD_MODULE = '"""A module."""\n\nVALUE = 1\n'
SETTINGS = """
[tool.importlinter]
[[tool.importlinter.contracts]]
layers = ["doctor | pretrain", "data.loading", "data.store"]
"""


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(cwd)}
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with the project's settings and one good module."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    write(tmp_path / "megatron_mmbert/__init__.py", '"""A package."""\n')
    write(tmp_path / "megatron_mmbert/good.py", GOOD_MODULE)
    write(tmp_path / "tools/good.py", GOOD_MODULE)
    return tmp_path


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("F401", '"""A module."""\n\nimport os\n'),
        ("ANN001", '"""A module."""\n\n\ndef double(x) -> int:\n    return 2 * x\n'),
        ("ANN201", '"""A module."""\n\n\ndef double(x: int):\n    return 2 * x\n'),
        ("D100", "VALUE = 1\n"),
    ],
)
def test_lint(tree: Path, rule: str, text: str) -> None:
    lint = [BIN / "ruff", "check", "--no-cache", "."]
    assert run(*lint, cwd=tree).returncode == 0
    write(tree / "megatron_mmbert/bad.py", text)
    done = run(*lint, cwd=tree)
    assert done.returncode == 1
    assert rule in done.stdout and "bad.py" in done.stdout


def test_format(tree: Path) -> None:
    check = [BIN / "ruff", "format", "--no-cache", "--check", "."]
    assert run(*check, cwd=tree).returncode == 0
    write(tree / "megatron_mmbert/bad.py", '"""A module."""\n\nVALUE=1\n')
    done = run(*check, cwd=tree)
    assert done.returncode == 1 and "bad.py" in done.stdout


def test_types(tree: Path) -> None:
    for folder in ("megatron_mmbert", "tools"):
        write(tree / folder / "bad.py", '"""A module."""\n\nVALUE: int = "one"\n')
    done = run(sys.executable, "-m", "mypy", "--cache-dir", os.devnull, cwd=tree)
    assert done.returncode == 1
    assert "megatron_mmbert/bad.py:3" in done.stdout and "tools/bad.py:3" in done.stdout
    assert "Found 2 errors in 2 files (checked 5 source files)" in done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package's sources and of the settings, for checks that read all of them."""
    copy = tmp_path_factory.mktemp("sources")
    shutil.copy(ROOT / "pyproject.toml", copy)
    only_python = shutil.ignore_patterns("__pycache__", "*.so", "*.yaml", "*.cpp")
    shutil.copytree(ROOT / "megatron_mmbert", copy / "megatron_mmbert", ignore=only_python)
    return copy


@pytest.mark.parametrize(
    ("module", "imported", "sentence"),
    [
        (
            "utils/text_table.py",
            "config.values",
            "megatron_mmbert.utils is not allowed to import megatron_mmbert.config",
        ),
        ("data/store/manifest.py", "data.loading.batch", "megatron_mmbert.data.store is not allowed to import"),
        ("utils/errors.py", "utils.text_table", "No cycles are allowed in megatron_mmbert.utils"),
    ],
)
def test_imports(sources: Path, module: str, imported: str, sentence: str) -> None:
    """An upward import, one between the packages of data/, and a circle of two modules."""
    package, name = f"megatron_mmbert.{imported}".rsplit(".", 1)
    paths = [sources / "megatron_mmbert" / module]
    lines = {paths[0]: f"\nfrom {package} import {name}  # broken\n"}
    if "cycles" in sentence:
        paths.append(sources / "megatron_mmbert" / f"{imported.replace('.', '/')}.py")
        lines[paths[1]] = f"\nimport megatron_mmbert.{module.removesuffix('.py').replace('/', '.')}  # broken\n"
    saved = {path: path.read_text(encoding="utf-8") for path in paths}
    try:
        for path in paths:
            path.write_text(saved[path] + lines[path], encoding="utf-8")
        done = run(BIN / "lint-imports", "--no-logo", "--no-cache", cwd=sources)
    finally:
        for path in paths:
            path.write_text(saved[path], encoding="utf-8")
    assert done.returncode == 1
    assert sentence in " ".join(done.stdout.split())


def structure(root: Path) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, ROOT / "tools/checks/structure.py", "--root", root, cwd=root)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A small tree that the structure's check accepts."""
    write(tmp_path / "pyproject.toml", SETTINGS)
    for module in ("doctor", "data/__init__", "data/store"):
        write(tmp_path / f"megatron_mmbert/{module}.py", GOOD_MODULE)
    done = structure(tmp_path)
    assert done.returncode == 0, done.stdout
    return tmp_path


def test_structure_finds_a_large_package(small: Path) -> None:
    for number in range(15):
        write(small / f"megatron_mmbert/data/module{number}.py", GOOD_MODULE)
    done = structure(small)
    assert done.returncode == 1 and "megatron_mmbert/data: 17 .py files, at most 15" in done.stdout


def test_structure_finds_a_large_class(small: Path) -> None:
    lines = [f"        self.value_{number} = {number}\n" for number in range(6)]
    fields = [f"    field_{number}: int = 0\n" for number in range(7)]
    text = (
        '"""A module."""\n\n\nclass Large:\n' + "".join(fields) + "\n    def __init__(self) -> None:\n" + "".join(lines)
    )
    write(small / "megatron_mmbert/data/store.py", text)
    done = structure(small)
    assert done.returncode == 1 and "class Large has 13 attributes, at most 12" in done.stdout
    write(small / "megatron_mmbert/data/store.py", text.replace("Large:", "Large:\n    # attributes: one per key"))
    assert structure(small).returncode == 0


def test_structure_finds_a_package_without_a_layer(small: Path) -> None:
    write(small / "megatron_mmbert/novel/__init__.py", GOOD_MODULE)
    done = structure(small)
    assert done.returncode == 1 and "no layer of [tool.importlinter] names novel" in done.stdout


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("See [there](docs/absent.md).", "README.md:3: the link to docs/absent.md leads nowhere"),
        ("See [there](docs/page.md#absent).", "page.md has no heading of that anchor"),
        ("See [there](#absent).", "README.md has no heading of that anchor"),
        ("See `docs/absent.md`.", "README.md:3: there is no `docs/absent.md`"),
        ("See `data/absent.py`.", "README.md:3: there is no `data/absent.py`"),
    ],
)
def test_links(small: Path, line: str, sentence: str) -> None:
    check = [sys.executable, ROOT / "tools/checks/links.py", "--root", small]
    write(small / "docs/page.md", "# A page\n\n## With a heading\n")
    good = "[a](docs/page.md#with-a-heading), [b](#title), `data/store.py`, `docs/page.md`, `docs/NAME.md`"
    write(small / "README.md", f"# Title\n\n{good}\n")
    assert run(*check, cwd=small).returncode == 0
    write(small / "README.md", f"# Title\n\n{line}\n{good}\n")
    done = run(*check, cwd=small)
    assert done.returncode == 1
    assert done.stdout.count("\n") == 1 and sentence in done.stdout


def test_links_in_sources(small: Path) -> None:
    write(small / "megatron_mmbert/doctor.py", '"""A module, see docs/absent.md."""\n')
    done = run(sys.executable, ROOT / "tools/checks/links.py", "--root", small, cwd=small)
    assert done.returncode == 1 and "megatron_mmbert/doctor.py:1: there is no docs/absent.md" in done.stdout


GOOD_COMMANDS = """
python tools/report.py runs/mine           # a comment
.venv/bin/python -m megatron_mmbert.doctor
torchrun --nproc-per-node 8 -m megatron_mmbert.pretrain recipe.yaml --phase pretrain phases.pretrain.tokens=1B
sbatch --nodes 2 slurm/pretrain.sh recipe.yaml --output runs/mine
bash tests/run.sh -m slow
for n in 1 2; do python tools/preprocess_data.py --input corpus --tokenizer t --output parts/$n --shard $n/2; done
python tools/merge_ties.py --base a \\
    --models b c --density 0.5 --output d
"""
BAD_COMMANDS = {
    "python tools/absent.py": "there is no tools/absent.py",
    "python -m megatron_mmbert.absent": "there is no module megatron_mmbert.absent",
    "python tools/merge_ties.py --base a --models b --density one --output d": "is not a number",
    "python tools/merge_ties.py --base a --models b --output d --absent": "unrecognized arguments: --absent",
    "python tools/convert_from_hf.py HF_DIR": "--output",
    "python tools/fill_mask.py": "HF_DIR",
    "torchrun --nproc-per-host 8 -m megatron_mmbert.pretrain recipe.yaml --phase pretrain": "--nproc-per-host",
    "torchrun -m megatron_mmbert.pretrain recipe.yaml": "--phase",
    "python -m megatron_mmbert.pretrain r.yaml --phase a phases.a.token=1B": "no key phases.a.token",
    "bash examples/absent.sh": "there is no examples/absent.sh",
    "bash slurm/pipeline.sh --absent recipe.yaml": "slurm/pipeline.sh has no option --absent",
    "sbatch slurm/pretrain.sh recipe.yaml model.layers=3": "no key model.layers",
}


def test_commands(tmp_path: Path) -> None:
    for folder in ("tools", "slurm", "tests", "examples", "megatron_mmbert"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    check = [sys.executable, "-W", "ignore", ROOT / "tools/checks/commands.py", "--root", tmp_path]
    fragments = (
        "`tools/report.py`, `checkpoint.absent`, `python tools/report.py --absent`, `data.stores`, `tokenizer.json`"
    )
    blocks = "```bash\n" + GOOD_COMMANDS + "\n".join(BAD_COMMANDS) + "\n```\n" + fragments + "\n"
    write(tmp_path / "README.md", blocks)
    done = run(*check, cwd=tmp_path)
    assert done.returncode == 1
    found = done.stdout.splitlines()
    assert len(found) == len(BAD_COMMANDS) + 2, done.stdout
    for line, (command, sentence) in zip(found, BAD_COMMANDS.items(), strict=False):
        assert command in line and sentence in line
    assert "no key checkpoint.absent" in found[-2] and "unrecognized arguments: --absent" in found[-1]


def test_the_script_ends_with_1_when_a_check_fails(small: Path) -> None:
    shutil.copytree(ROOT / "tools/checks", small / "tools/checks", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tools/checks.sh", small / "tools")
    for named in ("tools/report.py", "tools/make_reference.py", "tests/run.sh"):  # in the checks' own docstrings
        write(small / named, '"""A file."""\n')
    write(small / "tools/setup_venv.sh", f"PYTHON={sys.executable}\n")
    write(small / "README.md", "# Title\n")
    done = run("bash", "tools/checks.sh", "structure", "links", cwd=small)
    assert done.returncode == 0, done.stdout
    write(small / "README.md", "[there](absent.md)\n")
    done = run("bash", "tools/checks.sh", "structure", "links", cwd=small)
    assert done.returncode == 1
    assert "ok     structure" in done.stdout and "FAILED links" in done.stdout and "absent.md" in done.stdout
    assert run("bash", "tools/checks.sh", "absent", cwd=small).returncode == 1
