"""What can go wrong, by the part of the work that failed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MlcflowError(Exception):
    """Base of every error that mlcflow raises on purpose."""


class ImportModelError(MlcflowError):
    """The model could not be brought into MLIR; lists everything that stands in the way."""


class LoweringError(MlcflowError):
    """A step of a pipeline failed.

    Attributes: ``stage`` and ``step`` name it, ``op`` and ``location`` say where in the
    module (or in the user's own source), ``diagnostics`` is what MLIR printed, and
    ``reproducer`` is a command that shows the failure again.
    """

    def __init__(
        self,
        message: str,
        *,
        stage: str = "",
        step: str = "",
        op: str = "",
        location: str = "",
        diagnostics: tuple[str, ...] = (),
        reproducer: str = "",
    ) -> None:
        self.stage, self.step, self.op, self.location = stage, step, op, location
        self.diagnostics, self.reproducer = diagnostics, reproducer
        lines = [message]
        if op:
            lines.append(f"  operation: {op}")
        if location:
            lines.append(f"  at: {location}")
        lines += [f"  mlir: {text}" for text in diagnostics]
        if reproducer:
            lines.append(f"  to see it again: {reproducer}")
        super().__init__("\n".join(lines))


class ScheduleError(MlcflowError):
    """A schedule asked for something that its kernel does not allow."""


class ExecutionError(MlcflowError):
    """A compiled function was called with the wrong arguments, or failed while running."""


class PluginError(MlcflowError):
    """A package that extends mlcflow does not load, or clashes with another."""


class VerificationError(MlcflowError):
    """The compiled model disagrees with the original."""


def unknown_name(kind: str, name: str, known: Iterable[str], *, of: str = "") -> str:
    """The message for a name that is not in a table (``of`` something), with the nearest names."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    owner = f" of {of}" if of else ""
    return f"unknown {kind} '{name}'{owner}{hint} (known: {', '.join(names) or 'none'})"
