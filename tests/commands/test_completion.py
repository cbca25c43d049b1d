"""The completion scripts, the one for bash in a real bash."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from megatron_mmbert import cli
from megatron_mmbert.commands.run.completion import script

COMPLETE = """
source "$1"
shift
function=$(complete -p mmbert | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE} COMPREPLY=()
"$function" mmbert "${@: -1}" "${@: -2:1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("bash"):
        pytest.skip("no bash here")
    path = tmp_path_factory.mktemp("completion") / "mmbert"
    path.write_text(script("bash"), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("mmbert pre", {"preprocess", "pretrain", "preflight"}),
        ("mmbert merge --m", {"--models", "--method"}),
        ("mmbert encode --what s", {"scores"}),
        ("mmbert completion z", {"zsh"}),
    ],
)
def test_bash_completes(line: str, completed: set[str], bash_script: Path) -> None:
    command = ["bash", "--norc", "-c", COMPLETE, "bash", str(bash_script), *line.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert set(done.stdout.split()) == completed


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_know_every_command_and_no_old_flag(shell: str) -> None:
    text = script(shell)
    assert all(name in text for name in cli.COMMANDS)
    assert "max-bytes" in text and "most-bytes" not in text
