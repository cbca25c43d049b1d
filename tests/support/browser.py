"""A headless Chromium, driven by chromedriver's own protocol (W3C WebDriver), which is JSON over HTTP."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-background-networking", "--disable-dev-shm-usage"),
    *("--window-size=1500,1100", "--hide-scrollbars", "--no-first-run"),
)
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
SECONDS = 60


def missing() -> str | None:
    """Return why there is no browser here, None if there is one."""
    lacking = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"no {' and no '.join(lacking)} here (Debian: apt install chromium chromium-driver)" if lacking else None


class Browser:
    """A browser with a new profile in ``folder``; a context manager."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        self._folder = folder
        self._driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def __enter__(self) -> Browser:
        end = time.monotonic() + SECONDS
        while True:
            try:
                if self._call("GET", "/status")["ready"]:
                    break
            except OSError:
                if time.monotonic() > end:
                    raise
            time.sleep(0.1)
        options = {
            "binary": shutil.which("chromium"),
            "args": [*_FLAGS, f"--user-data-dir={self._folder / 'profile'}"],
        }
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        answer = self._call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._url += f"/session/{answer['sessionId']}"
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._call("DELETE", "")
        except (OSError, RuntimeError):
            pass
        self._driver.terminate()
        self._driver.wait(SECONDS)

    def open(self, address: str) -> None:
        """Open a page and wait until it is loaded."""
        self._call("POST", "/url", {"url": address})

    def run(self, script: str, *arguments: object) -> Any:
        """Return what ``script`` returns, a function's body in the page."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def click(self, selector: str) -> None:
        """Click the first element of a CSS selector, as a user would."""
        self._call("POST", f"/element/{self._find(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Replace the text of an input."""
        element = self._find(selector)
        self._call("POST", f"/element/{element}/clear", {})
        if text:
            self._call("POST", f"/element/{element}/value", {"text": text})
        else:  # the protocol's clearing is no input
            self.run("document.querySelector(arguments[0]).dispatchEvent(new Event('input'))", selector)

    def text(self, selector: str) -> str:
        """Return the visible text of the first element of a CSS selector."""
        return str(self._call("GET", f"/element/{self._find(selector)}/text"))

    def messages(self) -> list[str]:
        """Return what the page has written to the console, errors and violations of its policy among it."""
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]

    def screenshot(self, path: Path) -> None:
        """Write what is seen to a PNG."""
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def _find(self, selector: str) -> str:
        return str(self._call("POST", "/element", {"using": "css selector", "value": selector})[_ELEMENT])

    def _call(self, method: str, path: str, value: object = None) -> Any:
        content = None if value is None else json.dumps(value).encode()
        request = urllib.request.Request(self._url + path, content, {"Content-Type": "application/json"}, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=SECONDS) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None
