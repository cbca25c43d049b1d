"""How commands end."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable

import pytest

from megatron_mmbert.utils.errors import UserError, nearest, run_command


def raising(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


def test_nearest() -> None:
    assert nearest("tokns", ["tokens", "languages"]) == " (did you mean 'tokens'?)"
    assert nearest("zzz", ["tokens", "languages"]) == ""
    assert nearest("a", []) == ""


@pytest.mark.parametrize(
    ("main", "status", "printed"),
    [
        (lambda: None, 0, ""),
        (lambda: 0, 0, ""),
        (lambda: 3, 3, ""),
        (raising(UserError("file.yaml:3: no such key; remove it")), 2, "error: file.yaml:3: no such key; remove it\n"),
        (raising(KeyboardInterrupt()), 130, "interrupted\n"),
        (
            raising(OSError(errno.ENOSPC, "", "out/store")),
            2,
            "error: out/store: the disk is full; make room and run it again\n",
        ),
    ],
)
def test_exit_status(
    main: Callable[[], int | None], status: int, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == status
    assert capsys.readouterr().err == printed


def test_a_closed_pipe_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    with pytest.raises(SystemExit) as ended:
        run_command(raising(BrokenPipeError()))
    assert ended.value.code == 0
    assert stderr.closed, "Python would print a complaint when it flushes at exit"


def test_our_own_mistakes_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(raising(ZeroDivisionError()))
