"""The exchanges of each rank of a layout, found one rank after the other in one process, and whether they meet.

A rank's exchanges are collectives of a group and messages to or from a peer, over a process group that carries nothing
(torch's fake one), so that 64 ranks take no more than 64 runs of a tiny model. :func:`carry_out` then lets all ranks
proceed as far as they can: a collective is done when every member of its group has come to it, a message is received
after it was sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from megatron_mmbert import parallel


@dataclass(frozen=True)
class Exchange:
    """One of a rank's.

    Attributes:
        kind: the operation; ``send`` and ``recv_`` are messages.
        ranks: of the group; of a message the sender and the receiver.
        sizes: elements of each tensor that goes in.
    """

    kind: str
    ranks: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def is_message(self) -> bool:
        return self.kind in ("send", "recv_")


class ExchangeLog(TorchDispatchMode):
    """The exchanges of rank ``rank`` in the order in which it comes to them."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.found: list[Exchange] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self._note(func.overloadpacket.__name__, args)
        return func(*args, **(kwargs or {}))

    def note_objects(self, kind: str, group: Any) -> None:
        """Note an exchange of Python objects."""
        self.found.append(Exchange(kind, tuple(dist.get_process_group_ranks(group or dist.group.WORLD)), ()))

    def _note(self, kind: str, args: Any) -> None:
        group = next(dist.ProcessGroup.unbox(each) for each in args if isinstance(each, torch.ScriptObject))
        ranks = tuple(dist.get_process_group_ranks(group))
        if kind in ("send", "recv_"):
            peer = ranks[next(each for each in args if isinstance(each, int))]
            ranks = (self.rank, peer) if kind == "send" else (peer, self.rank)
        if len(ranks) > 1:
            sizes = tuple(each.numel() for each in tree_leaves(args) if isinstance(each, Tensor))
            self.found.append(Exchange(kind, ranks, sizes))


@contextmanager
def rank_alone(rank: int, tensor: int, pipeline: int, data: int, virtual: int) -> Iterator[ExchangeLog]:
    """Be one rank of a layout whose other ranks are not there; log its exchanges."""
    ranks = tensor * pipeline * data
    log = ExchangeLog(rank)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANK", str(rank))
        patch.setenv("WORLD_SIZE", str(ranks))

        def gather(found: list[Any], value: Any, group: Any = None) -> None:
            log.note_objects("all_gather_object", group)
            found[:] = [value] * len(found)

        patch.setattr(dist, "all_gather_object", gather)
        patch.setattr(
            dist,
            "broadcast_object_list",
            lambda box, src=0, group=None, **_: log.note_objects("broadcast_object_list", group),
        )
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
        try:
            parallel.start(tensor, pipeline, seed=1, virtual_stages=virtual)
            with log:
                yield log
        finally:
            parallel.shutdown()


def carry_out(logs: Sequence[Sequence[Exchange]]) -> str | None:
    """Return where the ranks would wait for ever, or exchange what does not fit; None if they come to their ends.

    Args:
        logs: each rank's exchanges, by rank.
    """
    place = [0] * len(logs)
    sent: Counter[Exchange] = Counter()

    def next_of(rank: int) -> Exchange | None:
        return logs[rank][place[rank]] if place[rank] < len(logs[rank]) else None

    def may_proceed(exchange: Exchange) -> bool:
        if exchange.kind == "recv_":
            return sent[Exchange("send", exchange.ranks, exchange.sizes)] > 0
        return exchange.kind == "send" or all(next_of(rank) == exchange for rank in exchange.ranks)

    moved = True
    while moved:
        moved = False
        for rank in range(len(logs)):
            exchange = next_of(rank)
            if exchange is None or not may_proceed(exchange):
                continue
            moved = True
            if exchange.is_message:
                place[rank] += 1
                sent[Exchange("send", exchange.ranks, exchange.sizes)] += 1 if exchange.kind == "send" else -1
            else:
                for member in exchange.ranks:
                    place[member] += 1
    stuck = {rank: next_of(rank) for rank in range(len(logs))}
    if any(stuck.values()):
        return "; ".join(f"rank {rank} waits in {exchange}" for rank, exchange in stuck.items() if exchange)
    unread = +sent
    return f"sent and never received: {list(unread)}" if unread else None
