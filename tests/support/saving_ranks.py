"""Two ranks save in the background, once well and once with a full disk on rank 1; each notes what it saw.

    python tests/support/saving_ranks.py FOLDER [really-full]

Each rank holds half of the optimizer's state, so both write. By default rank 1 is made to believe that the disk is
full; with ``really-full`` FOLDER is a small file system, which is filled.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import tempfile
import threading
from pathlib import Path

import torch.multiprocessing

from megatron_mmbert import parallel
from megatron_mmbert.checkpoint import training_state
from megatron_mmbert.checkpoint.async_saver import AsyncSaver
from megatron_mmbert.parallel.runtime import any_rank
from megatron_mmbert.utils import fault_points
from megatron_mmbert.utils.fault_points import Moment
from support.run_to_save import META, Run


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 16)):
                pass
        except OSError:
            pass


def rank(number: int, folder: Path, store: Path, really_full: bool) -> None:
    os.environ.update({"RANK": str(number), "WORLD_SIZE": "2"})
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=2)
    parallel.enable_cpu_mode()
    parallel.start(seed=1)
    run, saver, seen = Run(3, distributed=True), AsyncSaver(asynchronous=True), {}
    run.train(2)
    gate, is_full = threading.Event(), threading.Event()

    def before_sync() -> None:
        if is_full.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        gate.wait(60)

    fault_points.install(Moment.SHARD_SYNC, before_sync)

    whole = folder / "step-00000002"
    gate.set()
    training_state.save(folder / "waited" / whole.name, META, run.encoder, run.optimizer)
    gate.clear()
    assert saver.begin(whole, META, training_state.state_of(run.encoder, run.optimizer)) is None
    seen["losses"] = run.train(3)
    if number == 0:
        gate.set()  # this rank has written, the other has not
        while not saver._pending.job.done:  # type: ignore[union-attr]
            pass
    seen["early"] = saver.poll() is None and not whole.exists()
    gate.set()
    seen["outcome"] = saver.wait().problem  # type: ignore[union-attr]

    if really_full and number == 0:
        fill(folder)
    elif number == 1 and not really_full:
        is_full.set()
    outcome = saver.begin(folder / "step-00000005", META, training_state.state_of(run.encoder, run.optimizer))
    while outcome is None:
        outcome = saver.poll()
        any_rank(False)  # training goes on with exchanges of its own
    seen["problem"] = outcome.problem
    if not really_full:
        (folder / f"rank-{number}.json").write_text(json.dumps(seen))
    assert "the disk is full" in outcome.problem, outcome
    parallel.shutdown()


def main() -> None:
    folder, really_full = Path(sys.argv[1]), "really-full" in sys.argv
    with tempfile.TemporaryDirectory() as meeting:
        arguments = (folder, Path(meeting) / "store", really_full)
        torch.multiprocessing.start_processes(rank, arguments, 2, start_method="fork")


if __name__ == "__main__":
    main()
