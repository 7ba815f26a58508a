"""Primitives that change everything they should, or nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from mlcflow.mlir import func, ir

Method = TypeVar("Method", bound=Callable[..., Any])

PRIMITIVE = "is_primitive"


def primitive(method: Method) -> Method:
    """Make a method of ``Schedule`` a primitive: when it raises, the schedule is as before.

    Some primitives apply several transforms, of which a later one may turn out impossible;
    and a transform that fails may have changed a part of the function.
    """

    @functools.wraps(method)
    def atomic(schedule: Any, *arguments: Any, **options: Any) -> Any:
        before, gone = schedule.function.operation.clone(ip=False), dict(schedule.gone)
        steps = [(step, len(step.builds)) for step in schedule.trace.steps]
        try:
            return method(schedule, *arguments, **options)
        except Exception:
            _put_back(before, schedule.function)
            schedule.gone = gone
            schedule.trace.steps = [step for step, _ in steps]
            for step, count in steps:
                del step.builds[count:]
            raise

    setattr(atomic, PRIMITIVE, True)
    return atomic  # type: ignore[return-value]


def _put_back(before: ir.Operation, function: func.FuncOp) -> None:
    """Swap the body of ``function`` with the one that was saved."""
    body, saved = function.regions[0], before.regions[0]
    changed, kept = body.blocks[0], saved.blocks[0]
    kept.append_to(body)
    changed.append_to(saved)
