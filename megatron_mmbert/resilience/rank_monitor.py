"""Failed and hanging ranks: every rank that is left ends with one sentence that names them.

A collective that a failed rank takes part in ends with "connection closed", or after half an hour, and names nobody. So
every rank writes a count into the store that the process group met in, on a connection of its own, from a thread of its
own. Rank 0 reads all counts; when one stands still it writes down which, and the others read that one key and rank 0's:
the work is linear in the ranks. A store that no longer answers means that its host, which is rank 0's, is gone. When a
rank has failed the others print the sentence and end with :data:`~megatron_mmbert.utils.errors.EXIT_FAILED_RANK`: their
training threads are in collectives that nothing else would wake.

With its count every rank sends its progress marker. When no rank's marker moves for long enough, one hangs: rank 0 says
which, and all print the stacks of their threads and end in the same way.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from megatron_mmbert.resilience import progress_marker
from megatron_mmbert.resilience.rank_messages import DONE, REMEDY, Finding, MonitorSettings, Receiver, Sender
from megatron_mmbert.utils.errors import EXIT_FAILED_RANK
from megatron_mmbert.utils.files import to_json

_COMMUNICATION = ("gloo", "NCCL", "Connection closed by peer", "Connection reset", "Socket", "Broken pipe")


class RankMonitor:
    """Tells the other ranks that this one is alive, and learns which are not.

    Args:
        store: a client of its own to the store that all ranks share.
        end: called once, from a thread, with the sentence.

    Attributes:
        sentence: what was found; empty while nothing was.
    """

    def __init__(self, store: Any, settings: MonitorSettings, end: Callable[[str], None]) -> None:
        self._settings, self._end = settings, end
        self._sender = Sender(store, settings.rank)
        self._receiver = Receiver(store, settings)
        self._answered = time.monotonic()
        self._found = threading.Event()
        self.sentence = ""
        for run in (self._exchange, self._watch_store):
            threading.Thread(target=run, daemon=True, name=f"rank-monitor{run.__name__}").start()

    def close(self) -> None:
        """Leave in good order."""
        self._sender.send_last(DONE)

    def fail(self, reason: str) -> None:
        """Leave by an error; the others need not wait to learn it."""
        self._sender.send_last(f"failed {self._sender.host} {reason}")
        if self._settings.rank == 0:  # nobody else would write it down, and the store may end with this process
            self._sender.announce(f"rank 0 on {self._sender.host} ended: {reason}; {REMEDY}")
            time.sleep(2 * self._settings.period)

    def wait(self) -> str:
        """Block until the failed rank is known, at most about twice the silence that makes one; "" if none is."""
        self._found.wait(2 * self._settings.seconds + 2 * self._settings.period)
        return self.sentence

    def _exchange(self) -> None:
        """Send and receive until this rank leaves or a sentence is there."""
        is_first, closed = True, self._sender.closed
        while not closed.wait(0 if is_first else self._settings.period):
            is_first = False
            try:
                marker = progress_marker.read()
                self._sender.send_count(marker)
                finding = self._receiver.receive(self._sender.host, marker)
                if finding:
                    self._sender.announce(finding.sentence, finding.wants_stacks)
                announced = self._receiver.announced()
                if announced:
                    if self._settings.rank == 0:
                        # The store may end with this process: let the others read it.
                        time.sleep(3 * self._settings.period)
                    self._report(announced)
                    return
            except (RuntimeError, ValueError, IndexError):
                continue  # _watch_store decides when no answer has been none for too long
            self._answered = time.monotonic()

    def _watch_store(self) -> None:
        """Report a store that does not answer any more; its calls may neither return nor fail for a long while."""
        settings = self._settings
        while not self._sender.closed.wait(settings.period):
            if time.monotonic() - self._answered > settings.seconds + settings.period:
                who, host = ("rank 0", self._receiver.store_host) if settings.rank else ("the store", self._sender.host)
                sentence = (
                    f"{who} on {host} has not been heard of for {settings.seconds:g} s: the host, or the network to "
                    f"it, is lost; {REMEDY}"
                )
                self._report(Finding(sentence))
                return

    def _report(self, finding: Finding) -> None:
        if not self._found.is_set() and not self._sender.closed.is_set():
            if finding.wants_stacks:
                faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
            self.sentence = finding.sentence
            self._found.set()
            self._end(finding.sentence)


def _end_process(record: Path | None, sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    if record is not None:
        _note(record, sentence)
    os._exit(EXIT_FAILED_RANK)


def _note(record: Path, sentence: str) -> None:
    """Leave the reason for whoever starts the run again; the first rank to come writes it."""
    try:
        with record.open("x", encoding="utf-8") as file:
            file.write(to_json({"reason": sentence}, ensure_ascii=False) + "\n")
    except OSError:
        pass  # there already, or the file system is what was lost


@contextmanager
def monitored_ranks(seconds: float, hang_seconds: float, record: Path | None = None) -> Iterator[RankMonitor | None]:
    """Monitor the ranks while inside: a failed or hanging one ends this process with a sentence.

    To be entered by all ranks once they are in the process group; yields None, and does nothing, where there is one
    rank. An exception that leaves the context is told to the other ranks; one that comes of a lost connection waits
    until the failed rank is known.

    Args:
        seconds, hang_seconds: see :class:`MonitorSettings`.
        record: a file for the sentence as JSON: under torchrun the status of a rank is not that of the command.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1 or "MASTER_ADDR" not in os.environ:
        yield None
        return
    client = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        wait_for_workers=False,
        timeout=timedelta(seconds=seconds),
    )
    attempt = f"{os.environ.get('TORCHELASTIC_RUN_ID', '')}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    store = dist.PrefixStore(f"lost-ranks/{attempt}", client)
    settings = MonitorSettings(dist.get_rank(), dist.get_world_size(), seconds, hang_seconds)
    monitor = RankMonitor(store, settings, partial(_end_process, record))
    try:
        yield monitor
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or any(word in str(error) for word in _COMMUNICATION):
            monitor.wait()  # ends this process when it finds one
        monitor.fail(_first_line(error))
        raise
    except BaseException as error:
        monitor.fail(_first_line(error))
        raise
    else:
        monitor.close()


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
