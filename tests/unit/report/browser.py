"""Chromium without a window, driven through a pipe by its DevTools protocol."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Browser:
    """One page. Whatever it reports as an error is in ``errors``."""

    def __init__(self, profile: Path) -> None:
        program = next(filter(None, map(shutil.which, NAMES)), None)
        if program is None:
            pytest.skip("needs Chromium")
        ends = [*os.pipe(), *os.pipe()]
        reads, writes = (fcntl.fcntl(ends[at], fcntl.F_DUPFD, 16) for at in (0, 3))

        def connect() -> None:  # the browser reads from 3 and writes to 4
            os.dup2(reads, 3)
            os.dup2(writes, 4)

        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        flags += ["--disable-dev-shm-usage", f"--user-data-dir={profile}"]
        self.process = subprocess.Popen(
            [program, *flags, "about:blank"],
            pass_fds=(3, 4),
            preexec_fn=connect,
            stderr=subprocess.DEVNULL,
        )
        for end in (ends[0], ends[3], reads, writes):
            os.close(end)
        self.out, self.into = os.fdopen(ends[2], "rb"), os.fdopen(ends[1], "wb")
        self.number, self.session, self.errors = 0, "", []
        self.buffer = b""
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(each["targetId"] for each in targets if each["type"] == "page")
        attached = self.send("Target.attachToTarget", targetId=page, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.into.write(json.dumps(message).encode() + b"\0")
        self.into.flush()
        while True:
            answer = self._read()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            part = self.out.read1(1 << 16)
            assert part, "the browser is gone"
            self.buffer += part
        text, _, self.buffer = self.buffer.partition(b"\0")
        answer = json.loads(text)
        method, parameters = answer.get("method", ""), answer.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(parameters["exceptionDetails"])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"])
        self.last = method
        return answer

    def open(self, path: Path, scheme: str = "light") -> None:
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", features=media)
        self.send("Page.navigate", url=path.as_uri())
        while self.last != "Page.loadEventFired":
            self._read()

    def value(self, script: str) -> Any:
        """What the script, or the promise that it gives, comes to."""
        found = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """The first true value of ``script``, looked at every frame for ten seconds."""
        return self.value(
            "new Promise((done, fail) => { const end = Date.now() + 10000; (function look() {"
            f" const found = ({script}); if (found) done(found);"
            " else if (Date.now() > end) fail(new Error('nothing in ten seconds'));"
            " else setTimeout(look, 20); })(); })"
        )

    def press(self, key: str) -> None:
        text = {"text": {"Enter": "\r"}.get(key, key)} if len(key) == 1 or key == "Enter" else {}
        code = {"Tab": 9, "Enter": 13}.get(key, ord(key[0].upper()))
        common = {"key": key, "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.out.close()
        self.into.close()
