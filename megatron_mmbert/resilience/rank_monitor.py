"""Which rank was lost, or hangs, in one sentence, on every rank that is left.

A collective that a lost rank takes part in ends with "connection closed", or after half an hour, and names nobody. So
every rank counts aloud in the store that the process group met in, on a connection of its own, from a thread of its
own. Rank 0 listens to all; what it finds missing it writes down, and the others read that one key and rank 0's: the
work is linear in the ranks. A store that no longer answers means that its host, which is rank 0's, is lost. When a
rank is lost the others print the sentence and end with :data:`STATUS_LOST_RANK`: their training threads sit in
collectives that nothing else would wake.

With its count every rank says where its training stands. When that is no news on any rank for long enough, one hangs:
rank 0 says which, and all print where each of their threads is and end in the same way.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
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
from megatron_mmbert.resilience.hang_detector import RanksProgress
from megatron_mmbert.resilience.progress_marker import ProgressMarker

STATUS_LOST_RANK = 76
_REMEDY = "start the same command again on hosts that work, and it goes on from the last checkpoint"
_DONE = "done"
_COMMUNICATION = ("gloo", "NCCL", "Connection closed by peer", "Connection reset", "Socket", "Broken pipe")


class RankMonitor:
    """Tells the others that this rank is alive, and learns which are not.

    Args:
        store: a client of its own to the store that all ranks share.
        seconds: silence after which a rank is lost.
        hung_seconds: how long all ranks may stand still before one of them is taken to hang.
        end: called once, from a thread, with the sentence.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        world_size: int,
        seconds: float,
        end: Callable[[str], None],
        hung_seconds: float = float("inf"),
    ) -> None:
        self._store, self._rank, self._world_size, self._seconds, self._end = store, rank, world_size, seconds, end
        self._hung_seconds, self._standings = hung_seconds, RanksProgress()
        self._host = socket.gethostname()
        self._period = min(2.0, seconds / 8)
        self._closed = threading.Event()
        self._speaks = threading.Lock()
        self._found = threading.Event()
        self._count, self._answered = 0, time.monotonic()
        self._heard: dict[int, tuple[str, float]] = {}
        self._store_host = "its host"
        self._stacks = False
        self.sentence = ""
        for run in (self._exchange, self._time):
            threading.Thread(target=run, daemon=True, name=f"lost-ranks{run.__name__}").start()

    def close(self) -> None:
        """This rank leaves on its own account."""
        self._say_at_last(_DONE)

    def fail(self, what: str) -> None:
        """This rank ends by an error; the others need not wait to learn it."""
        self._say_at_last(f"failed {self._host} {what}")
        if self._rank == 0:  # nobody else would write it down, and the store may end with this process
            self._tell(f"rank 0 on {self._host} ended: {what}; {_REMEDY}")
            time.sleep(2 * self._period)

    def wait(self) -> str:
        """Block until the lost rank is known, at most about twice the silence that makes one lost; "" if none is."""
        self._found.wait(2 * self._seconds + 2 * self._period)
        return self.sentence

    def _say_at_last(self, value: str) -> None:
        with self._speaks:  # a count under way would otherwise come after the last word, and this rank be lost
            self._closed.set()
        self._set(f"rank {self._rank}", value)

    def _count_aloud(self, where: ProgressMarker) -> None:
        with self._speaks:
            if not self._closed.is_set():
                self._store.set(f"rank {self._rank}", f"alive {self._host} {self._count} {_text(where)}")

    def _tell(self, sentence: str) -> None:
        self._set("lost", sentence)

    def _set(self, key: str, value: str) -> None:
        try:
            self._store.set(key, value)
        except (RuntimeError, ValueError):
            pass  # the store is gone: nobody is left to tell

    def _exchange(self) -> None:
        while not self._closed.wait(self._period if self._count else 0):
            self._count += 1
            try:
                here = progress_marker.now()
                self._count_aloud(here)
                if self._rank == 0:
                    self._standings.hear(0, self._host, here, time.monotonic())
                    self._listen()
                elif self._store.check(["rank 0"]):
                    self._listen_to_rank_0(self._store.get("rank 0").decode())
                if self._store.check(["lost"]):
                    sentence = self._store.get("lost").decode()
                    self._stacks = self._store.check(["stacks"])
                    if self._rank == 0:
                        time.sleep(3 * self._period)  # the store may end with this process: let the others read it
                    self._report(sentence)
                    return
            except (RuntimeError, ValueError, IndexError):
                continue  # the timing thread decides when no answer has been none for too long
            self._answered = time.monotonic()

    def _listen_to_rank_0(self, value: str) -> None:
        """Any other rank: rank 0 may be killed while the store, which torchrun serves, lives on."""
        now = time.monotonic()
        if value != self._heard.get(0, ("", 0.0))[0]:
            self._heard[0] = (value, now)
        if value.startswith("alive "):
            self._store_host = value.split()[1]
            if now - self._heard[0][1] > self._seconds:
                self._tell(_silence({0: self._store_host}, self._seconds))

    def _listen(self) -> None:
        """Rank 0: note who still counts, and write down who does not."""
        keys = [f"rank {rank}" for rank in range(1, self._world_size)]
        if not self._store.check(keys):  # not all have begun; joining has its own time limit
            keys = [key for key in keys if self._store.check([key])]
        now, silent, failed = time.monotonic(), {}, []
        for key, value in zip(keys, map(bytes.decode, self._store.multi_get(keys)) if keys else (), strict=True):
            rank = int(key.split()[1])
            if value != self._heard.get(rank, ("", 0.0))[0]:
                self._heard[rank] = (value, now)
            if value.startswith("failed "):
                _, host, what = value.split(" ", 2)
                failed.append(f"rank {rank} on {host} ended: {what}")
            elif value == _DONE:
                self._standings.leave(rank)
            else:
                _, host, _, where = value.split(" ", 3)
                self._standings.hear(rank, host, _whereabouts(where), now)
                if now - self._heard[rank][1] > self._seconds:
                    silent[rank] = host
        if failed:
            self._tell(f"{failed[0]}; {_REMEDY}")
        elif silent:
            self._tell(_silence(silent, self._seconds))
        elif hang := self._standings.hang(self._hung_seconds, now):
            self._set("stacks", "wanted")
            self._tell(f"{hang}; where each thread of each rank is stands in the ranks' logs; {_REMEDY}")

    def _time(self) -> None:
        while not self._closed.wait(self._period):
            if time.monotonic() - self._answered > self._seconds + self._period:
                who = "rank 0" if self._rank else "the store"
                self._report(
                    f"{who} on {self._store_host if self._rank else self._host} has not been heard of for "
                    f"{self._seconds:g} s: the host, or the network to it, is lost; {_REMEDY}"
                )
                return

    def _report(self, sentence: str) -> None:
        if not self._found.is_set() and not self._closed.is_set():
            if self._stacks:
                faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
            self.sentence = sentence
            self._found.set()
            self._end(sentence)


def _silence(silent: dict[int, str], seconds: float) -> str:
    """The sentence about ranks, by host, that no longer count."""
    listed = ", ".join(f"rank {rank} on {host}" for rank, host in list(silent.items())[:8])
    more = f" and {len(silent) - 8} more" if len(silent) > 8 else ""
    verb = "has" if len(silent) == 1 else "have"
    return (
        f"{listed}{more} {verb} not been heard of for {seconds:g} s: killed, or the host or the network to it is lost; "
        f"{_REMEDY}"
    )


def _text(where: ProgressMarker) -> str:
    return f"{where.count} {int(where.waits)} {where.place}"


def _whereabouts(text: str) -> ProgressMarker:
    count, waits, place = text.split(" ", 2)
    return ProgressMarker(int(count), place, waits == "1")


def _end_process(record: Path | None, sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    if record is not None:
        _note(record, sentence)
    os._exit(STATUS_LOST_RANK)


def _note(record: Path, sentence: str) -> None:
    """Leave the reason for whoever starts the run again; of all ranks the first to come writes it."""
    try:
        with record.open("x", encoding="utf-8") as file:
            file.write(json.dumps({"reason": sentence}, ensure_ascii=False) + "\n")
    except OSError:
        pass  # there already, or the file system is what was lost


@contextmanager
def monitored_ranks(seconds: float, hung_seconds: float, record: Path | None = None) -> Iterator[RankMonitor | None]:
    """While inside, a lost or hung rank ends this process with a sentence. None, and nothing, where there is one rank.

    To be entered by all ranks once they are in the process group. An exception that leaves the context is told to the
    other ranks; one that comes of a lost connection waits until the lost rank is known.

    Args:
        seconds, hung_seconds: see :class:`RankMonitor`.
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
    end = partial(_end_process, record)
    watch = RankMonitor(store, dist.get_rank(), dist.get_world_size(), seconds, end, hung_seconds)
    try:
        yield watch
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or any(word in str(error) for word in _COMMUNICATION):
            watch.wait()  # ends this process when it finds one
        watch.fail(_first_line(error))
        raise
    except BaseException as error:
        watch.fail(_first_line(error))
        raise
    else:
        watch.close()


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
