"""How commands end."""

from __future__ import annotations

import errno
import io
import logging
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import ROOT

from megatron_mmbert.utils.errors import UserError, first_line, nearest, run_command, sentence_of


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


def test_a_closed_pipe_ends_as_by_its_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    with pytest.raises(SystemExit) as ended:
        run_command(raising(BrokenPipeError()))
    assert ended.value.code == 141, "the work may have been cut short, so it is not 0"
    assert stderr.closed, "Python would print a complaint when it flushes at exit"


def test_our_own_mistakes_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(raising(ZeroDivisionError()))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "", "store/manifest.json"), "store/manifest.json: permission denied"),
        (OSError(errno.EIO, "", "a", None, "b"), "a -> b: input/output error"),
        (OSError(errno.EMFILE, "", "x"), "x: too many open files; raise the limit (ulimit -n) and run it again"),
        (OSError(errno.ELOOP, "", "x"), "x: too many levels of symbolic links"),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
            "no folder for temporary files can be written to; set TMPDIR to one",
        ),
        (MemoryError(), "the memory is used up; free some, or run it on a larger machine"),
    ],
)
def test_errors_of_the_system_are_one_sentence(
    error: BaseException, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(raising(error))
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {said}\n"


def test_a_path_that_is_not_utf8_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(raising(FileNotFoundError(errno.ENOENT, "", b"bad\xff")))
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: bad\\udcff: no such file or directory\n"


def test_a_traceback_that_a_library_logs_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        try:
            raise OSError(errno.EIO, "bad disk", "a file")
        except OSError as error:
            record = logging.makeLogRecord({"msg": "falling back", "exc_info": (OSError, error, error.__traceback__)})
            assert logging.lastResort is not None
            logging.lastResort.handle(record)
            raise

    with pytest.raises(SystemExit):
        run_command(main)
    assert capsys.readouterr().err == "falling back\nerror: a file: input/output error\n"


def test_a_folder_that_cannot_be_copied_is_one_sentence() -> None:
    error = shutil.Error([("a/x", "b/x", "[Errno 24] Too many open files: 'a/x'"), ("a/y", "b/y", "other")])
    assert sentence_of(error) == "a/x -> b/x: too many open files; raise the limit (ulimit -n) and run it again"
    assert sentence_of(shutil.Error([("a", "b", "odd")])) == "a -> b: odd"
    loop = RuntimeError("Symlink loop from '/some/where'")
    assert sentence_of(loop) == "/some/where: a loop of symbolic links; name another path"


def test_native_errors_are_one_sentence() -> None:
    safetensors = pytest.importorskip("safetensors")
    full = safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert sentence_of(full) == (
        "Error while serializing: I/O error: No space left on device: the disk is full; make room and run it again"
    )
    assert "could not be written" in str(sentence_of(RuntimeError("[enforce fail at inline_container.cc:664] . x")))
    assert sentence_of(RuntimeError("[enforce fail at gloo/socket.cc:24] rv != -1. socket: Too many open files")) == (
        "socket: too many open files; raise the limit (ulimit -n) and run it again"
    )
    assert sentence_of(RuntimeError("shapes do not match")) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_clean_up(tmp_path: Path, number: signal.Signals) -> None:
    script = (
        "import signal, sys, time\nfrom pathlib import Path\n"
        # As from a terminal: in the background both are ignored from the start, and stay so.
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from megatron_mmbert.utils.errors import run_command\n"
        "from megatron_mmbert.utils.outputs import OutputKind, output_folder\n"
        "def main():\n"
        "    with output_folder(Path(sys.argv[1]) / 'out', OutputKind('a thing', ('x',), ('x',))) as folder:\n"
        "        (folder / 'x').write_text('half')\n"
        "        print('ready', flush=True)\n"
        # In short steps: Python runs a handler between two calls, and a signal may come just before a sleep begins.
        "        for _ in range(600):\n"
        "            time.sleep(0.05)\n"
        "run_command(main)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert len(said.splitlines()) == 1 and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_reasons_of_libraries_are_one_line_without_their_advice(tmp_path: Path) -> None:
    torch.save({"a": io.StringIO}, tmp_path / "x.pt")
    with pytest.raises(pickle.UnpicklingError) as caught:
        torch.load(tmp_path / "x.pt", weights_only=True)
    assert "Re-running `torch.load`" in str(caught.value)
    assert first_line(caught.value) == "it holds more than tensors and might run code"
    assert first_line(ValueError("\x1b[1mone\x1b[0m\ntwo")) == "one" and first_line(KeyError()) == "KeyError"


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_fail_a_command_nor_mix_with_its_files(closed: str, tmp_path: Path) -> None:
    """A file opened next would have the number of the stream, and hold what is printed."""
    code = (
        "import os, sys; from megatron_mmbert.utils.errors import run_command, UserError\n"
        "def main():\n"
        "    out = open(sys.argv[1], 'w')\n"
        "    print('said', file=sys.stderr); print('printed'); os.write(1, b'x'); os.write(2, b'y')\n"
        "    out.write('whole'); out.close()\n"
        "    raise UserError('bad') if len(sys.argv) > 2 else SystemExit(0)\n"
        "run_command(main)"
    )
    for extra, status in (("", 0), ("x", 2)):
        line = f'"{sys.executable}" -c "$0" "$1" {extra} {closed}'
        done = subprocess.run(["bash", "-c", line, code, str(tmp_path / "out")], capture_output=True, cwd=ROOT)
        assert done.returncode == status, done.stderr
        assert (tmp_path / "out").read_text() == "whole"
