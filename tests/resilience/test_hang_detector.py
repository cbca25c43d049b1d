"""Who hangs: the rank behind the others, or among equals the one that does not wait."""

from __future__ import annotations

import ast
import threading
import time

from support import ROOT

from megatron_mmbert.resilience import progress_marker
from megatron_mmbert.resilience.hang_detector import ProgressTable
from megatron_mmbert.resilience.progress_marker import ProgressMarker, Stage


def standings(*where: tuple[int, str, bool], at: float = 100.0) -> ProgressTable:
    found = ProgressTable()
    for rank, each in enumerate(where):
        found.update(rank, f"node{rank}", ProgressMarker(*each), at)
    return found


def test_nobody_hangs_while_one_gets_on() -> None:
    found = standings((5, "a", True), (5, "a", True))
    assert found.find_hang(20, 119) == ""
    found.update(1, "node1", ProgressMarker(6, "b", True), 119)
    found.update(0, "node0", ProgressMarker(5, "a", True), 119)
    assert found.find_hang(20, 125) == "" and found.find_hang(20, 140) != ""


def test_the_rank_behind_is_named() -> None:
    found = standings((8, "the sum of gradients of step 3", True), (7, "the data of step 3", True), (8, "x", False))
    assert found.find_hang(20, 130) == (
        "no rank has advanced for 30 s: rank 1 on node1 hangs in the data of step 3, and the others wait"
    )


def test_among_equals_the_one_that_does_not_wait_is_named() -> None:
    found = standings((8, "the update of step 3", True), (8, "the update of step 3", False), (8, "x", True))
    assert "rank 1 on node1 hangs in the update of step 3" in found.find_hang(20, 130)


def test_ranks_that_all_wait_are_not_told_apart() -> None:
    assert standings((8, "the update of step 3", True), (8, "the update of step 3", True)).find_hang(20, 130) == (
        "no rank has advanced for 30 s: all are in the update of step 3"
    )


def test_a_rank_that_has_left_keeps_nobody_waiting() -> None:
    found = standings((8, "a", True), (9, "b", True))
    found.remove(0)
    found.remove(1)
    assert found.find_hang(20, 1000) == ""


def test_the_marker_is_of_the_main_thread() -> None:
    progress_marker.mark(Stage.DATA, 7)
    before: list[ProgressMarker] = []
    ask = threading.Thread(target=lambda: (time.sleep(0.1), before.append(progress_marker.read())))
    ask.start()
    finish_grad_sync()
    ask.join()
    progress_marker.mark(Stage.UPDATE)
    now = progress_marker.read()
    assert before[0].stage == "the data of step 7" and before[0].waits
    assert now.stage == "the update of step 7" and now.count == before[0].count + 1 and not now.waits


def finish_grad_sync() -> None:
    """Of the name of a function in which ranks wait."""
    time.sleep(0.3)


def test_stages_are_marked_by_the_enumeration_alone() -> None:
    """Ranks are told apart by counts of the same stages: each is marked somewhere, and never by a text of its own."""
    marked, others = set(), []
    for path in (ROOT / "megatron_mmbert").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("progress_marker.mark"):
                argument = ast.unparse(node.args[0])
                marked.add(argument.removeprefix("Stage."))
                others += [] if argument.startswith("Stage.") else [f"{path.name}:{node.lineno}"]
    assert others == []
    assert marked == {stage.name for stage in Stage} - {"START_UP"}
