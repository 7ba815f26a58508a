"""Running transform-dialect sequences that are built from Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from mlcflow.errors import ScheduleError
from mlcflow.mlir import interpreter, ir, transform, walk

Handle: TypeAlias = ir.Value
"""A transform handle: stands for a list of payload operations."""


def apply(root: ir.OpView | ir.Module, build: Callable[[Handle], None]) -> None:
    """Apply to ``root`` the transform sequence that ``build(handle of root)`` emits.

    Raises ``ScheduleError`` with MLIR's own words when a transform fails, silenceably or not.
    """
    with root.context, ir.Location.unknown():
        script = sequence(build)
        apply_script(root, script, script.body.operations[0])


def apply_script(root: ir.OpView | ir.Module, script: ir.Module, entry: ir.OpView) -> None:
    """Apply the named sequence ``entry`` of ``script`` to ``root``. Raises ``ScheduleError``."""
    _check(script)
    with root.context, ir.Location.unknown():
        try:
            interpreter.apply_named_sequence(root.operation, entry.operation, script.operation)
        except ValueError as error:
            reason = str(error).removeprefix("Failed to apply named transform sequence.").strip()
            raise ScheduleError(reason) from error


def _check(script: ir.Module) -> None:
    """Raise where the interpreter would crash: at operations that are no transforms."""
    try:
        script.operation.verify()
    except ir.MLIRError as error:
        names = dict.fromkeys(op.operation.name for op in walk(script.operation))
        unknown = [n for n in names if not script.context.is_registered_operation(n)]
        reason = f"unknown operation {', '.join(unknown)}" if unknown else str(error)
        raise ScheduleError(f"the transform sequence is not valid: {reason}") from error


def sequence(build: Callable[[Handle], None]) -> ir.Module:
    """A module that holds the sequence as ``@__transform_main``."""
    module = ir.Module.create()
    module.operation.attributes["transform.with_named_sequence"] = ir.UnitAttr.get()
    any_op = transform.AnyOpType.get()
    with ir.InsertionPoint(module.body):
        named = transform.NamedSequenceOp(
            "__transform_main", [any_op], [], arg_attrs=[{"transform.readonly": ir.UnitAttr.get()}]
        )
    with ir.InsertionPoint(named.body):
        build(named.bodyTarget)
        transform.YieldOp([])
    return module
