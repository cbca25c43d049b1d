"""Who hangs: the rank behind the others, or among equals the one that does not wait."""

from __future__ import annotations

import threading
import time

from megatron_mmbert.resilience import progress_marker
from megatron_mmbert.resilience.hang_detector import RanksProgress
from megatron_mmbert.resilience.progress_marker import ProgressMarker


def standings(*where: tuple[int, str, bool], at: float = 100.0) -> RanksProgress:
    found = RanksProgress()
    for rank, each in enumerate(where):
        found.hear(rank, f"node{rank}", ProgressMarker(*each), at)
    return found


def test_nobody_hangs_while_one_gets_on() -> None:
    found = standings((5, "a", True), (5, "a", True))
    assert found.hang(20, 119) == ""
    found.hear(1, "node1", ProgressMarker(6, "b", True), 119)
    found.hear(0, "node0", ProgressMarker(5, "a", True), 119)
    assert found.hang(20, 125) == "" and found.hang(20, 140) != ""


def test_the_rank_behind_is_named() -> None:
    found = standings((8, "the sum of gradients of step 3", True), (7, "the data of step 3", True), (8, "x", False))
    assert found.hang(20, 130) == (
        "no rank has got on for 30 s: rank 1 on node1 hangs in the data of step 3, and the others wait"
    )


def test_among_equals_the_one_that_does_not_wait_is_named() -> None:
    found = standings((8, "the update of step 3", True), (8, "the update of step 3", False), (8, "x", True))
    assert "rank 1 on node1 hangs in the update of step 3" in found.hang(20, 130)


def test_ranks_that_all_wait_are_not_told_apart() -> None:
    assert standings((8, "the update of step 3", True), (8, "the update of step 3", True)).hang(20, 130) == (
        "no rank has got on for 30 s: all are in the update of step 3"
    )


def test_a_rank_that_has_left_keeps_nobody_waiting() -> None:
    found = standings((8, "a", True), (9, "b", True))
    found.leave(0)
    found.leave(1)
    assert found.hang(20, 1000) == ""


def test_whereabouts_are_of_the_main_thread() -> None:
    progress_marker.at("the data", 7)
    before: list[ProgressMarker] = []
    ask = threading.Thread(target=lambda: (time.sleep(0.1), before.append(progress_marker.now())))
    ask.start()
    finish_grad_sync()
    ask.join()
    progress_marker.at("the update")
    now = progress_marker.now()
    assert before[0].place == "the data of step 7" and before[0].waits
    assert now.place == "the update of step 7" and now.count == before[0].count + 1 and not now.waits


def finish_grad_sync() -> None:
    """Of the name of a function in which ranks wait."""
    time.sleep(0.3)
