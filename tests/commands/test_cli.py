"""The command line: help is quick and whole, all ways to a command are one, and bad input is one sentence."""

from __future__ import annotations

import argparse
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

from megatron_mmbert import __version__, cli
from megatron_mmbert.commands.arguments import add_renamed
from megatron_mmbert.utils.errors import UserError

TOOLS = [path.stem for path in sorted((ROOT / "tools").glob("*.py")) if "run_as" in path.read_text(encoding="utf-8")]
HEAVY = ("torch", "megatron", "numpy", "tqdm", "matplotlib")
HELP_OF_ALL = """
import contextlib, io, sys, time
from megatron_mmbert import cli
start = time.process_time()
for name in cli.COMMANDS:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        cli.dispatch([name, "--help"])
assert time.process_time() - start < 0.5 * len(cli.COMMANDS)
print(*sys.modules)
"""


def parser_of(name: str) -> argparse.ArgumentParser:
    parser = cli.Parser(prog=f"mmbert {name}")
    cli.add_command(parser, name)
    return parser


def test_help_of_all_commands_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", HELP_OF_ALL], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout.split()) & set(HEAVY)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_says_what_a_command_reads_and_writes(name: str) -> None:
    parser = parser_of(name)
    text = parser.format_help()
    assert parser.description and parser.description[0].isupper()
    assert f"examples:\n  mmbert {name}" in text or f"-m megatron_mmbert {name}" in text
    assert cli.COMMANDS[name].summary[0].islower() and not cli.COMMANDS[name].summary.endswith(".")
    assert f"  {name} " in cli.overview()
    unexplained = [
        action.option_strings or action.dest
        for action in parser._actions
        if not action.help and not action.choices and action.metavar is None
    ]
    assert not unexplained


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_examples_parse(name: str) -> None:
    for line in cli.module_of(name).EXAMPLES.strip().splitlines():
        words = shlex.split(line, comments=True)
        parser_of(name).parse_intermixed_args(words[words.index(name) + 1 :])


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout elsewhere, which is not installed."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in ("megatron_mmbert", "tools"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    return copy


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_runs_from_a_checkout_that_is_not_installed(tool: str, checkout: Path, tmp_path: Path) -> None:
    code = "import runpy, sys; sys.argv = [sys.argv[1], '--help']; runpy.run_path(sys.argv[0], run_name='__main__')"
    show = "import atexit; atexit.register(lambda: print('ran', sys.modules['megatron_mmbert'].__file__));"
    script = str(checkout / "tools" / f"{tool}.py")
    done = subprocess.run(
        [sys.executable, "-c", f"{show}{code}", script],
        capture_output=True, text=True, cwd=tmp_path, env={},
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith(f"usage: {tool}.py ")
    assert done.stdout.endswith(f"ran {checkout / 'megatron_mmbert' / '__init__.py'}\n")


def test_every_tool_is_checked() -> None:
    assert len(TOOLS) == 16


@pytest.mark.parametrize("module", ["pretrain", "doctor", "preflight", "inference", "config.show", "train.where"])
def test_modules_with_a_name_of_their_own_run_a_command(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"megatron_mmbert.{module}", run_name="__main__")
    assert not ended.value.code
    assert capsys.readouterr().out.startswith(f"usage: python -m megatron_mmbert.{module} ")


def test_unknown_command_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"^no command 'pre-process' \(did you mean 'preprocess'\?\); `mmbert --help`"):
        cli.run_cli(["pre-process"])


def test_bad_input_ends_with_status_2(tmp_path: Path) -> None:
    bad_arguments = (
        [],
        ["nonsense"],
        ["merge", "--models", "a"],
        ["merge", "--models", "a", "--output", "x", "--weights", "much"],
        ["merge", "--models", "nowhere", "--method", "linear", "--output", "x"],
    )
    for arguments in bad_arguments:
        command = [sys.executable, "-m", "megatron_mmbert", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_version_and_overview(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_cli(["--version"]) is None
    assert cli.run_cli(["--help"]) is None
    version, _, overview = capsys.readouterr().out.partition("\n")
    assert version == f"mmbert {__version__}"
    assert max(map(len, overview.splitlines())) <= 100


def test_a_renamed_flag_is_taken_with_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_renamed(parser, "--number", "--count", type=int, default=1, nargs="+")
    assert "--number" not in parser.format_help()
    assert parser.parse_args(["--count", "2"]).count == [2]
    assert parser.parse_args([]).count == 1
    assert capsys.readouterr().err == ""
    assert parser.parse_args(["--number", "3", "4"]).count == [3, 4]
    assert capsys.readouterr().err == "--number is now called --count; the old name is still taken\n"


@pytest.mark.parametrize("name", ["fill-mask", "encode", "pretrain"])
def test_arguments_that_are_no_text_are_said_at_the_start(name: str) -> None:
    with pytest.raises(UserError, match=r"'--output=bad.udcff': not UTF-8 text"):
        cli.dispatch([name, "--output=bad\udcff"])
