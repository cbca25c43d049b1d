"""The one way a command ends: by a status of the table below, and on an error with one sentence, never a traceback.

| status | meaning |
|---|---|
| 0 | the work is done, and the output is whole |
| 2 | bad input, or an error of the system: one sentence on stderr names the file, the value and the remedy |
| 75 | training saved and stopped before its end; start the same command again |
| 76 | training ended because a rank failed; start the same command again |
| 128 + n | ended by signal n (130 Ctrl-C, 143 SIGTERM); nothing half-made is left |
"""

from __future__ import annotations

import difflib
import errno
import logging
import os
import re
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_BAD_INPUT = 2
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h
EXIT_FAILED_RANK = 76
NO_ROOM = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota of disk space is used up"}
"""What these errors of the system mean, in words."""
_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;]*m")
_ERROR_NUMBER = re.compile(r"\[Errno (\d+)\]")
_NATIVE_ERROR = re.compile(r"os error (\d+)")
_NATIVE_MODULES = ("safetensors_rust", "safetensors", "tokenizers", "builtins")
_NATIVE_NUMBERS = (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE)
"""Errors of the system that native libraries pass on by their text alone, in a RuntimeError."""
_NATIVE_WRITERS = ("PytorchStreamWriter", "inline_container", "iostream error", "basic_ios::clear")


class UserError(Exception):
    """Bad input by the user. The message is one sentence that names the file (and line), the value and the remedy."""


class EndedBySignal(BaseException):
    """A signal asked the command to end; raised in the main thread, so that outputs in the making are removed."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return `` (did you mean 'X'?)`` for the candidate closest to ``name``, or an empty string."""
    close = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def first_line(error: BaseException) -> str:
    """Return the reason that a library gives, in one line of at most 200 characters.

    Where PyTorch refuses a pickle, it advises to open it without the check, which is the opposite of ours.
    """
    text = str(error).strip()
    if "weights_only" in text:
        return "it holds more than tensors and might run code"
    return _TERMINAL_CODES.sub("", text.partition("\n")[0])[:200] or type(error).__name__


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command's ``main`` and exit by the table of statuses; SIGTERM and SIGHUP clean up as Ctrl-C does."""
    # Megatron-Core warns, file by file, of each optional package that is absent and of its own deprecated torch calls.
    warnings.filterwarnings("ignore", module=r"megatron\.core")
    _open_closed_streams()

    if logging.lastResort is not None:
        logging.lastResort.addFilter(_without_traceback)
    with _signals_raise():
        _run(main)


def _open_closed_streams() -> None:
    """Give closed standard streams a place to write to: the next file opened would get their number and text."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))


def _without_traceback(record: logging.LogRecord) -> bool:
    """Drop the traceback that a library logs of an error which it then raises: our sentence says it."""
    record.exc_info = record.exc_text = None
    return True


def _run(main: Callable[[], int | None]) -> None:
    try:
        sys.exit(main() or 0)
    except KeyboardInterrupt:
        _end("interrupted", 128 + signal.SIGINT)
    except EndedBySignal as ended:
        _end(f"ended by {ended}", 128 + ended.number)
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone. The work may have been cut short, so the status is no 0.
        _silence(sys.stdout)
        sys.stderr.close()  # Python would complain when it flushes
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        _end(f"error: {sentence}", EXIT_BAD_INPUT)


def sentence_of(error: BaseException) -> str | None:
    """Return the sentence for an error of the user or of the system; None for one that is a fault of this program."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and "usable temporary directory" in (error.strerror or ""):
        return "no folder for temporary files can be written to; set TMPDIR to one"
    if isinstance(error, shutil.Error):  # of a copied folder: (source, target, the error in words) of each file
        source, target, reason = error.args[0][0]
        number = _ERROR_NUMBER.search(str(reason))
        return f"{source} -> {target}: {reason_of(int(number[1]) if number else 0, str(reason))}"
    if isinstance(error, OSError) and (error.errno is not None or error.filename is not None):
        paths = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
        place = " -> ".join(dict.fromkeys(paths)) + ": " if paths else ""
        return f"{place}{reason_of(error.errno or 0, error.strerror)}"
    if isinstance(error, MemoryError):
        return "the memory is used up; free some, or run it on a larger machine"
    return _native_sentence(error)


def reason_of(number: int, otherwise: str | None = None) -> str:
    """Return what an error of the system means and what to do, for the number that it gave."""
    if number in NO_ROOM:
        return f"{NO_ROOM[number]}; make room and run it again"
    if number in (errno.EMFILE, errno.ENFILE):
        return "too many open files; raise the limit (ulimit -n) and run it again"
    text = os.strerror(number) if number else otherwise or "error of the system"
    return text[:1].lower() + text[1:]


def _native_sentence(error: BaseException) -> str | None:
    """Return the sentence for an error of the system that a native library passed on in a type of its own."""
    text = " ".join(str(error).split())
    numbered = _NATIVE_ERROR.search(text)
    if numbered and type(error).__module__.split(".")[0] in (
        "safetensors_rust",
        "safetensors",
        "builtins",
        "tokenizers",
    ):
        return f"{text[: numbered.start()].rstrip(' (:')}: {reason_of(int(numbered[1]))}"
    for number in _NATIVE_NUMBERS if isinstance(error, RuntimeError) else ():
        before, found, _ = text.partition(os.strerror(number))
        if found:
            return f"{re.split(r'[].] ', before)[-1].rstrip(' :(') or 'error'}: {reason_of(number)}"
    if isinstance(error, RuntimeError) and text.startswith("Symlink loop from "):  # of pathlib, before Python 3.13
        return f"{text.removeprefix('Symlink loop from ').strip(chr(39))}: a loop of symbolic links; name another path"
    if isinstance(error, RuntimeError) and any(name in text for name in _NATIVE_WRITERS):
        return f"a checkpoint's file could not be written or read ({text[:200]}); look at the disk and run it again"
    return None


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Let signals that end a process raise instead, where nobody else has said what they do."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _ENDING_SIGNALS}
    ours = [number for number, handler in before.items() if handler is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        for number in ours:
            if signal.getsignal(number) in (_raise, signal.SIG_IGN):
                signal.signal(number, before[number])


def _raise(number: int, frame: FrameType | None) -> None:
    for each in _ENDING_SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # a second one must not cut the cleaning short
    raise EndedBySignal(number)


def _end(sentence: str, status: int) -> None:
    try:
        print(sentence.encode("utf-8", "backslashreplace").decode("utf-8"), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _silence(sys.stderr)  # stderr is closed: the status alone must say it
    sys.exit(status)


def _silence(stream: object) -> None:
    """Keep Python from flushing a stream that is gone when it ends."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # type: ignore[attr-defined]
    except (OSError, ValueError, AttributeError):
        pass
