"""Trying a function that may fail, crash, hang or fill memory: how did it end?"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlcflow.check.isolate import Limits, WorkerDied, is_supported, isolated
from mlcflow.errors import MlcflowError

Tell = Callable[[str], None]
"""Says what is done next."""


@dataclass(frozen=True)
class Outcome:
    """How it ended: ``done`` with a ``value``, or ``failed``, ``crashed``, ``hung``.

    ``message`` says why; ``last`` is what the function told last.
    """

    kind: str
    value: Any = None
    message: str = ""
    last: str = ""


def run_apart(function: Callable[[Tell], Any], limits: Limits) -> Outcome:
    """What ``function`` gives, which must be data of JSON, in a process of its own.

    Where the system has no such process the function runs in this one, without limits.
    """
    last = [""]

    def work(say: Callable[[dict[str, Any]], None]) -> bytes:
        return json.dumps(function(lambda text: say({"next": text}))).encode()

    def hear(note: dict[str, Any]) -> None:
        last[0] = note["next"]

    try:
        # What a worker prints that has not died would come between our own lines.
        with contextlib.redirect_stderr(io.StringIO()):
            answer = isolated(work, limits, hear) if is_supported() else work(hear)
        return Outcome("done", json.loads(answer), last=last[0])
    except WorkerDied as error:
        kind = "hung" if error.how.startswith("was not done") else "crashed"
        return Outcome(kind, message=" ".join([error.how, *error.telling]), last=last[0])
    except Exception as error:  # of a step of the user's, too
        name = "" if isinstance(error, MlcflowError) else f"{type(error).__name__}: "
        return Outcome("failed", message=f"{name}{error}", last=last[0])
