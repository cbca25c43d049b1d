"""``megatron_mmbert.pretrain`` on several ranks under torchrun's agent, started again and again without its imports.

Importing torch and Megatron-Core takes a rank seconds. Here one process imports them and forks: for each start an
agent (the one that ``torchrun`` runs), which forks its ranks. Before training each rank calls ``install(order)`` of the
test's own module, which may install handlers at the product's fault points, to watch it or to do it harm.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import ROOT


class Ranks:
    """The process that forks.

    Args:
        handlers: name of a module beside this file, or in ``folder``, with ``install``.
    """

    def __init__(self, handlers: str, folder: Path = Path(__file__).parent) -> None:
        paths = [str(ROOT), str(folder), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, handlers],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
        )

    def run(self, order: dict[str, Any], meanwhile: Callable[[int], None] = lambda agent: None) -> int:
        """Start ``order["ranks"]`` ranks with the command's ``arguments``; ``log`` takes what they say.

        Args:
            meanwhile: called with the agent's process number, which is its group's too.

        Returns:
            The agent's status: 0, 1, or minus the signal that ended it. Nothing of it is left running.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        agent = int(self._process.stdout.readline())
        try:
            meanwhile(agent)
            return int(self._process.stdout.readline())
        finally:
            try:
                os.killpg(agent, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def close(self) -> None:
        self._process.communicate()


def _serve(handlers: str) -> None:
    from megatron_mmbert.train import trainer  # noqa: F401  here, so that no rank has to

    module = importlib.import_module(handlers)
    for line in sys.stdin:
        order = json.loads(line)
        agent = os.fork()
        if not agent:
            _agent(order, module)
        print(agent, flush=True)
        _, status = os.waitpid(agent, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _agent(order: dict[str, Any], module: Any) -> None:
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.setsid()
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream, descriptor in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
        os.dup2(descriptor, stream)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=order["ranks"],
        run_id=Path(order["log"]).stem,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        start_method="fork",
    )
    try:
        elastic_launch(config, _rank)(order, module)
    except BaseException as error:
        print(f"agent: {type(error).__name__}: {error}", flush=True)
        os._exit(1)
    os._exit(0)


def _rank(order: dict[str, Any], module: Any) -> int:
    from megatron_mmbert import cli
    from megatron_mmbert.utils.errors import UserError

    module.install(order)
    try:
        return cli.dispatch(["pretrain", *order["arguments"]]) or 0
    except UserError as error:
        print(f"error: {error}", flush=True)
        os._exit(2)


if __name__ == "__main__":
    _serve(sys.argv[1])
