"""The other end of a worker: a process that is asked, and stands still otherwise."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from typing import Any

from mlcflow.errors import MlcflowError

PATIENCE = 5.0
"""Seconds that a worker has to end by itself."""


class WorkerError(MlcflowError):
    """A side failed, crashed or took too long; one line says how."""


class Worker:
    """The process of one side. Use as a context manager: it ends with the block.

    Between questions the process is stopped, where the system can: a library whose threads
    wait by spinning would take time from the side that is measured.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlcflow.bench.worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def ask(self, do: str, limit: float, **arguments: Any) -> dict[str, Any]:
        """The answer to a question. Raises ``WorkerError`` if there is none in ``limit`` s."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(limit, stop)
        timer.start()
        try:
            self._signal("SIGCONT")
            process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
            self._signal("SIGSTOP")
        if late.is_set():
            raise WorkerError(f"not done within {limit:g} s")
        if not line:
            raise WorkerError(self._why_gone())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _why_gone(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        how = f"ended by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"{how}: {lines[-1]}" if lines else how

    def _signal(self, name: str) -> None:
        if self._process.poll() is None and hasattr(signal, name):
            os.kill(self._process.pid, getattr(signal, name))

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is None:
            self._leave()
        self._process.kill()  # also ends a process that is stopped
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    def _leave(self) -> None:
        """Let the process end by itself, so that its libraries remove their files."""
        assert self._process.stdin is not None
        self._signal("SIGCONT")
        with suppress(BrokenPipeError, subprocess.TimeoutExpired):
            self._process.stdin.close()
            self._process.wait(PATIENCE)
