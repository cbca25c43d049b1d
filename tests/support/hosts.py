"""Hosts on one machine: each a network namespace with its own address and name, joined by a bridge.

Needs root. What runs on a host can reach the other hosts alone. ``cut`` takes a host's link down, as a pulled cable
does; ``kill`` also ends all that runs there, as a loss of power does: nothing says goodbye to the peers.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO


def why_not() -> str:
    """Why this machine cannot make hosts; "" if it can."""
    try:
        with Hosts(1):
            return ""
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no network namespaces here ({error})"


class Hosts:
    """``node1`` to ``nodeN`` with the addresses 10.77.0.1 to N."""

    def __init__(self, count: int) -> None:
        self.names = [f"node{number}" for number in range(1, count + 1)]
        self._prefix = f"mm{os.getpid()}"
        self._running: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Hosts:
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._remove()

    def address(self, name: str) -> str:
        return f"10.77.0.{self.names.index(name) + 1}"

    def start(
        self, name: str, command: list[str], output: Path, environment: Mapping[str, str]
    ) -> subprocess.Popen[str]:
        """Run ``command`` on a host, with its name as the host name; stdout and stderr go to ``output``."""
        inside = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name, *command]
        stream: IO[str] = output.open("w")
        process = subprocess.Popen(
            ["ip", "netns", "exec", self._space(name), *inside],
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
            env={**environment, "GLOO_SOCKET_IFNAME": "eth0"},
            start_new_session=True,
        )
        stream.close()
        self._running.append(process)
        return process

    def cut(self, name: str) -> None:
        _run("ip", "-n", self._switch, "link", "set", name, "down")

    def join(self, name: str) -> None:
        _run("ip", "-n", self._switch, "link", "set", name, "up")

    def kill(self, name: str) -> None:
        """Cut the link, then end everything on the host."""
        self.cut(name)
        self._kill_all(self._space(name))

    @property
    def _switch(self) -> str:
        return f"{self._prefix}-switch"

    def _space(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _make(self) -> None:
        _run("ip", "netns", "add", self._switch)
        _run("ip", "-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", self._switch, "link", "set", "bridge", "up")
        for name in self.names:
            space = self._space(name)
            _run("ip", "netns", "add", space)
            _run(
                *("ip", "-n", self._switch, "link", "add", name, "type", "veth"),
                *("peer", "name", "eth0", "netns", space),
            )
            _run("ip", "-n", self._switch, "link", "set", name, "master", "bridge", "up")
            _run("ip", "-n", space, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            _run("ip", "-n", space, "link", "set", "eth0", "up")
            _run("ip", "-n", space, "link", "set", "lo", "up")

    def _remove(self) -> None:
        for space in [*map(self._space, self.names), self._switch]:
            if Path("/run/netns", space).exists():
                self._kill_all(space)
                subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)
        for process in self._running:
            process.wait()

    @staticmethod
    def _kill_all(space: str) -> None:
        listed = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, check=False).stdout
        for number in listed.split():
            try:
                os.kill(int(number), signal.SIGKILL)
            except ProcessLookupError:
                pass


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
