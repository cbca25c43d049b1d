"""The judge of the matrix sees every end that is not allowed, and a loss of power loses what was not synced."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
from support.fault_matrix import judge, power

NOTHING: judge.Tree = {".": "folder"}
WHOLE: judge.Tree = {".": "folder", "out": "digest"}
SENTENCE = "reading\nerror: in: damaged; copy it again\n"


def end(status: int, log: str = "", after: judge.Tree = NOTHING, changed: tuple[str, ...] = ()) -> judge.Ended:
    return judge.Ended((status,), (log,), False, NOTHING, after, changed)


@pytest.mark.parametrize(
    ("ended", "allowed", "said"),
    [
        (end(0, after=WHOLE), {}, None),
        (end(2, SENTENCE), {}, None),
        (end(-9), {"killed": signal.SIGKILL}, None),
        (end(143), {"killed": signal.SIGTERM}, None),
        (end(-9, after=NOTHING | {".out.vm-1-ab.tmp": "digest"}), {"killed": signal.SIGKILL}, None),
        (end(75, after=WHOLE), {"killed": signal.SIGTERM, "trains": True, "may_stay": ("out",)}, None),
        (end(2, SENTENCE, NOTHING | {"out": "digest"}), {"may_stay": ("out",)}, None),
        (end(0), {}, "missing"),
        (end(0, after=NOTHING | {"out": "half"}), {}, "other content"),
        (end(0, after=WHOLE | {"more": "digest"}), {}, "unasked"),
        (end(0, after=WHOLE), {"must_fail": True}, "status 0"),
        (end(0, "a 1.5 and more\n", after=WHOLE), {"printed": "a 2 and all\n"}, "prints other things"),
        (end(2), {}, "0 sentences"),
        (end(2, SENTENCE * 2), {}, "2 sentences"),
        (end(1, SENTENCE), {}, "status 1"),
        (end(2, "Traceback (most recent call last):\n" + SENTENCE), {}, "traceback"),
        (end(2, SENTENCE, WHOLE), {}, "left"),
        (end(143, after=NOTHING | {".out.vm-1-ab.tmp": "digest"}), {"killed": signal.SIGTERM}, "left"),
        (end(-9, after=NOTHING | {"out": "half"}), {"killed": signal.SIGKILL}, "left"),
        (end(-11), {"killed": signal.SIGKILL}, "status -11"),
        (end(2, SENTENCE, changed=("in",)), {}, "changed its inputs"),
    ],
)
def test_ends(ended: judge.Ended, allowed: dict, said: str | None) -> None:
    found = judge.wrong(ended, judge.Allowed(WHOLE, **allowed))
    assert found is None if said is None else found is not None and said in found


def test_two_at_once() -> None:
    def pair(statuses: tuple[int, int], after: judge.Tree) -> str | None:
        logs = tuple(SENTENCE if status else "" for status in statuses)
        return judge.wrong_pair(judge.Ended(statuses, logs, False, NOTHING, after, ()), judge.Allowed(WHOLE))

    assert pair((0, 2), WHOLE) is None and pair((0, 0), WHOLE) is None
    assert "none ends with 0" in str(pair((2, 2), NOTHING))
    assert "missing" in str(pair((0, 2), NOTHING))


def test_a_loss_of_power(tmp_path: Path) -> None:
    """A synced file stays; what was added, or renamed, after the last sync may be as before."""
    folder, record = tmp_path / "out", tmp_path / "record"
    folder.mkdir()
    (record / "kept").mkdir(parents=True)
    (folder / "log").write_text("synced")
    durable = power.durable_files(folder)
    with (folder / "log").open("a") as file:
        file.write(" and more")
    (record / "kept/1").write_text("the old one")
    (folder / "state").write_text("the new one")
    lines = [f"names|0|{folder}|1 2 3", f"made|0|{folder}/.tmp|", f"renamed|1|{folder}/state|{folder}/.tmp"]
    (record / "record").write_text("".join(f"{line}\n" for line in lines))
    seen = set()
    for seed in range(20):
        (folder / "log").write_text("synced and more")
        (folder / ".tmp").unlink(missing_ok=True)
        (folder / "state").unlink(missing_ok=True)
        (folder / "state").write_text("the new one")
        power.lose_power(folder, record, dict(durable), random.Random(seed))
        assert (folder / "log").read_text().rstrip("\0").startswith("synced")
        seen.add((folder / "state").read_text().rstrip("\0") == "the old one")
    assert seen == {True, False}
