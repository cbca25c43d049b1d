"""The one way a command ends on bad input: one sentence on stderr and exit status 2, never a traceback."""

from __future__ import annotations

import difflib
import errno
import sys
from collections.abc import Callable, Iterable

EXIT_BAD_INPUT = 2
NO_ROOM = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota of disk space is used up"}
"""What these errors of the system mean, in words."""


class UserError(Exception):
    """Bad input by the user. The message is one sentence that names the file (and line), the value and the remedy."""


def nearest(name: str, candidates: Iterable[str]) -> str:
    """`` (did you mean 'X'?)`` for the candidate closest to ``name``, or an empty string."""
    found = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.5)
    return f" (did you mean {found[0]!r}?)" if found else ""


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command's ``main`` and exit: 0 when it returns None, 2 after a :class:`UserError`, 130 after Ctrl-C."""
    try:
        sys.exit(main() or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; that is no error of ours.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{NO_ROOM[error.errno]}; make room and run it again", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
