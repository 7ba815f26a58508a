"""Exceptions that pass from one process to another, as data for JSON."""

from __future__ import annotations

import json
import sys
import traceback
from contextlib import suppress
from typing import Any

from mlcflow.errors import MlcflowError


class WorkerTraceback(Exception):
    """Where a worker raised what is raised again here; the cause of that."""

    def __str__(self) -> str:
        return f"in the worker process:\n\n{self.args[0]}"


def to_data(error: BaseException) -> dict[str, Any]:
    """The kind of an exception, what it says, its attributes as far as JSON has them."""
    attributes = {}
    for name, value in vars(error).items():
        try:
            attributes[name] = json.loads(json.dumps(value))
        except (TypeError, ValueError):
            continue  # an object that only lives there
    return {
        "module": type(error).__module__,
        "class": type(error).__qualname__,
        "text": str(error),
        "attributes": attributes,
        "traceback": "".join(traceback.format_exception(error)),
    }


def from_data(data: dict[str, Any]) -> tuple[Exception, WorkerTraceback]:
    """The exception that ``to_data`` described, and its cause.

    One of ours or of Python's own is of its class; any other is an ``MlcflowError``.
    """
    trace = WorkerTraceback(data["traceback"])
    kind = getattr(sys.modules.get(data["module"]), data["class"], None)
    if isinstance(kind, type) and issubclass(kind, MlcflowError):
        error = kind.__new__(kind)
        Exception.__init__(error, data["text"])
        attributes = data["attributes"].items()
        vars(error).update({k: tuple(v) if isinstance(v, list) else v for k, v in attributes})
        return error, trace
    if data["module"] == "builtins" and isinstance(kind, type) and issubclass(kind, Exception):
        with suppress(TypeError):  # its constructor may ask for more, as that of UnicodeError
            return kind(data["text"]), trace
    return MlcflowError(f"{data['class']}: {data['text']}"), trace
