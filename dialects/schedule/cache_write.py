"""``schedule.cache_write``: compute into memory of its own, then copy to the destination."""

from mlcflow.dialects.schedule.cache_read import copy_of, empty_like
from mlcflow.dialects.schedule.dialect import Erase, ScheduleDialect, attach
from mlcflow.graph.linalg_ops import is_fill, owner
from mlcflow.mlir import ext, ir, transform
from mlcflow.schedule.labels import BLOCK


class CacheWrite(ScheduleDialect.Operation, name="cache_write"):
    """Give each operation of ``target`` a fresh destination, and copy its result afterwards.

    What the destination held before is copied in first, unless a fill sets it: then the
    fill sets the fresh one. The copy back is a ``linalg.copy`` block called ``block_name``.
    """

    target: ext.Operand[transform.AnyOpType]
    block_name: ir.StringAttr


def load() -> None:
    """Attach the interfaces, in the current context."""
    attach(CacheWrite, _apply)


def _apply(op: ir.OpView, payload: list[ir.OpView], erase: Erase) -> None:
    for target in payload:
        number = len(target.operands) - 1
        given = target.operands[number]
        uses = [(use.owner, use.operand_number) for use in target.results[0].uses]
        fill = owner(given)
        with ir.InsertionPoint(target), target.location:
            fresh = empty_like(given)
            if fill is not None and is_fill(fill):
                again = fill.operation.clone()
                again.operands[1] = fresh
                destination, start = fill.operands[1], again.results[0]
            else:
                destination, start = given, copy_of(given, fresh).results[0]
        target.operation.operands[number] = start
        with ir.InsertionPoint.after(target), target.location:
            copy = copy_of(target.results[0], destination)
        copy.attributes[BLOCK] = op.block_name
        for user, position in uses:
            user.operation.operands[position] = copy.results[0]
        if fill is not None and is_fill(fill) and not list(fill.results[0].uses):
            erase(fill.operation)
