"""Where a compilation is: before each step it says so, to whoever listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeAlias

from mlcflow.mlir import ir

IMPORT, MACHINE_CODE = "import", "machine code"
"""What comes before the stages of a pipeline, and after them."""
PARSE = "parse"
"""The step that reads MLIR."""
PASS_PIPELINE, SCHEDULE = "pass pipeline", "schedule"
"""What else ``mlcflow opt`` does with a module."""

Start: TypeAlias = ir.Module | str | bytes | Path | None
"""What a step starts from: a module, its text or bytecode, its file, nothing of that kind."""

Listener = Callable[[str, str, Start], None]
"""Takes the names of a stage and a step, and what the step starts from."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def entering(stage: str, step: str, start: Start) -> None:
    """Say that ``step`` of ``stage`` is about to run."""
    listener = _listener.get()
    if listener is not None:
        listener(stage, step, start)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let ``listener`` know of each step within the block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
