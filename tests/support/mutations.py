"""Ways to damage a file's bytes, and a limit on the time that reading it may take."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS = 60
Mutation = Callable[[bytes, random.Random], bytes]


def flip(content: bytes, pick: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(pick.choice((1, 1, 8, 64))):
        data[pick.randrange(len(data))] ^= 1 << pick.randrange(8)
    return bytes(data)


def splice(content: bytes, pick: random.Random) -> bytes:
    at, size = pick.randrange(len(content)), pick.randrange(1, 100)
    return content[:at] + pick.choice((b"", pick.randbytes(size), content[:size])) + content[at + size :]


MUTATIONS: dict[str, Mutation] = {
    "flip": flip,
    "splice": splice,
    "cut": lambda content, pick: content[: pick.randrange(len(content))],
    "magic": lambda content, pick: pick.randbytes(4) + content[4:],
    "append": lambda content, pick: content + pick.randbytes(pick.randrange(1, 40)),
    "empty": lambda content, pick: b"",
    "noise": lambda content, pick: pick.randbytes(pick.randrange(1, 3000)),
}


def flip_in(content: bytes, pick: random.Random, first: int, last: int) -> bytes:
    """Flip some bits between two bytes."""
    return content[:first] + flip(content[first:last], pick) + content[last:]


def mutate(content: bytes, pick: random.Random) -> bytes:
    """Damage ``content`` in any way."""
    return MUTATIONS[pick.choice(sorted(MUTATIONS))](content, pick)


@contextmanager
def no_hang(case: object = "") -> Iterator[None]:
    """End a test that takes too long; the message names ``case``."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"{case} still running after {SECONDS} s".lstrip())

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
