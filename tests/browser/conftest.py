"""A headless Chromium, spoken to over two pipes in the DevTools protocol, with the standard library alone."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
PIPED = """
import fcntl, os, sys
high = [fcntl.fcntl(int(file), fcntl.F_DUPFD, 10) for file in sys.argv[1:3]]
for file, wanted in zip(high, (3, 4)):
    os.dup2(file, wanted)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Becomes the program named third, with the first two files as its 3 and 4."""
PATIENCE = 60.0
"""Seconds that any one answer may take."""


class Browser:
    """One page of one browser; every wait is bounded."""

    def __init__(self, profile: Path, binary: str) -> None:
        """Start it with an empty profile.  It reads commands from its file 3 and answers on its file 4."""
        theirs_in, self._ours_out = os.pipe()
        self._ours_in, theirs_out = os.pipe()
        words = [sys.executable, "-c", PIPED, str(theirs_in), str(theirs_out), binary, *FLAGS]
        self.process = subprocess.Popen(
            [*words, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(theirs_in, theirs_out),
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._count, self._rest, self._events, self._session = 0, b"", [], None
        try:
            target = self.devtools("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.devtools("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                self.devtools(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def devtools(self, command: str, **parameters: Any) -> Any:
        """Send a command of the DevTools protocol, and wait for its answer."""
        self._count += 1
        message = {"id": self._count, "method": command, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._ours_out, json.dumps(message).encode() + b"\0")
        answer = self._await(lambda told: told.get("id") == self._count)
        if "error" in answer:
            raise RuntimeError(f"{command}: {answer['error']['message']}")
        return answer["result"]

    def _await(self, wanted: Any) -> dict[str, Any]:
        """The first message that is wanted; the others are kept."""
        deadline = time.monotonic() + PATIENCE
        while True:
            while b"\0" in self._rest:
                line, _, self._rest = self._rest.partition(b"\0")
                told = json.loads(line)
                if wanted(told):
                    return told
                self._events.append(told)
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._ours_in], [], [], left)[0]:
                raise TimeoutError(f"Chromium said nothing for {PATIENCE:.0f} s")
            if not (part := os.read(self._ours_in, 1 << 16)):
                raise RuntimeError(f"Chromium ended with status {self.process.wait()}")
            self._rest += part

    def open(self, page: Path, *, width: int, height: int = 900, dark: bool = False, print_: bool = False) -> None:
        """Open a file in a window of that size, in either colour scheme."""
        phone = width < 600
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.devtools("Emulation.setEmulatedMedia", media="print" if print_ else "", features=scheme)
        self._events.clear()
        self.devtools("Page.navigate", url=page.as_uri())
        if not any(event.get("method") == "Page.loadEventFired" for event in self._events):
            self._await(lambda told: told.get("method") == "Page.loadEventFired")

    def run(self, script: str) -> Any:
        """Run the body of a JavaScript function in the page and return its value."""
        found = self.devtools("Runtime.evaluate", expression=f"(() => {{{script}}})()", returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"]["description"])
        return found["result"].get("value")

    def messages(self) -> list[str]:
        """What the console has said since the page was opened, faults of its scripts among it."""
        self.run("return 0")  # whatever was said before this is here when it answers
        found = []
        for event in self._events:
            told = event.get("params", {})
            if event.get("method") == "Log.entryAdded":
                found.append(told["entry"]["text"])
            elif event.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
                found.append(json.dumps(told))
        return found

    def picture(self, path: Path) -> None:
        """Take a picture of the whole page."""
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """End the browser."""
        os.close(self._ours_out)
        os.close(self._ours_in)
        self.process.terminate()
        self.process.wait(timeout=20)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if binary is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    running = Browser(tmp_path_factory.mktemp("profile"), binary)
    yield running
    running.close()
