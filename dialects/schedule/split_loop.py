"""``schedule.split_loop``: several nested loops instead of one."""

import math

from mlcflow.dialects.schedule.dialect import Erase, ScheduleDialect, attach
from mlcflow.mlir import affine, arith, ext, ir, scf, transform
from mlcflow.schedule.labels import KIND, LOOP, OF, constant


class SplitLoop(ScheduleDialect.Operation, name="split_loop"):
    """Split each ``scf.for`` of ``target`` into loops of ``factors`` iterations, outermost first.

    The bounds are constants, and the product of the factors is the number of iterations.
    The loops are called ``loop_names``; marks stay with the outermost.
    """

    target: ext.Operand[transform.AnyOpType]
    factors: ir.ArrayAttr
    loop_names: ir.ArrayAttr


def load() -> None:
    """Attach the interfaces, in the current context."""
    attach(SplitLoop, _apply)


def _apply(op: ir.OpView, payload: list[ir.OpView], erase: Erase) -> None:
    factors = [ir.IntegerAttr(factor).value for factor in op.factors]
    for loop in payload:
        loop.attributes[LOOP] = op.loop_names[0]
        for number in range(1, len(factors)):
            loop = _split(loop, math.prod(factors[number:]))
            loop.attributes[LOOP] = op.loop_names[number]


def _split(outer: scf.ForOp, count: int) -> scf.ForOp:
    """Let ``outer`` step over ``count`` iterations, which the loop inside that it gives makes."""
    index = ir.IndexType.get()
    step = constant(outer.step) or 1
    with ir.InsertionPoint(outer), outer.location:
        low, width = arith.constant(index, 0), arith.constant(index, count * step)
        stride = outer.step
        outer.operation.operands[2] = width
    moved = list(outer.body.operations)
    with ir.InsertionPoint.at_block_begin(outer.body), outer.location:
        inner = scf.ForOp(low, width, stride, list(outer.inner_iter_args))
    for key in (OF, KIND):
        inner.attributes[key] = outer.attributes[key]
    anchor = ir.InsertionPoint(inner.body)
    with anchor, outer.location:
        total = ir.AffineExpr.get_symbol(0) + ir.AffineExpr.get_symbol(1)
        both = [outer.induction_variable, inner.induction_variable]
        position = affine.AffineApplyOp(ir.AffineMap.get(0, 2, [total]), both)
    for inside in moved:
        inside.operation.detach_from_parent()
        anchor.insert(inside)
    with ir.InsertionPoint(outer.body), outer.location:
        scf.YieldOp(list(inner.results))
    outer.induction_variable.replace_all_uses_except(position.result, position.operation)
    for old, new in zip(outer.inner_iter_args, inner.inner_iter_args, strict=True):
        old.replace_all_uses_except(new, inner.operation)
    return inner
