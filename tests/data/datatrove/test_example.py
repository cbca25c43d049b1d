"""The example pipeline on this machine, killed in the middle and run again."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from support.cluster import until
from support.datatrove_example import check_store, command, datatrove_python, environment, make_inputs, train_on

pytestmark = pytest.mark.slow


def test_example(tmp_path: Path) -> None:
    python = datatrove_python()
    corpus, tokenizer = make_inputs(tmp_path)
    output = tmp_path / "out"
    run = command(python, corpus, tokenizer, output, "--tasks", "2")
    log = (tmp_path / "log").open("w")
    killed = subprocess.Popen(
        run, env=environment(dict(os.environ)), stdout=log, stderr=log, start_new_session=True
    )  # fmt: skip
    until(lambda: any((output / "logs").glob("*/completions/*")), 300, "a task that is done")
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    done = subprocess.run(run, env=environment(dict(os.environ)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    check_store(output, tokenizer)
    train_on(output, tokenizer)
