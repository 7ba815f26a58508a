"""``schedule.fuse_loops``: one loop over all pairs of iterations of two nested ones."""

from mlcflow.dialects.schedule.dialect import Erase, ScheduleDialect, attach
from mlcflow.mlir import arith, ext, ir, scf, transform
from mlcflow.schedule.labels import KIND, LOOP, OF, constant
from mlcflow.schedule.nests import inner_loop


class FuseLoops(ScheduleDialect.Operation, name="fuse_loops"):
    """Fuse each ``scf.for`` of ``outer`` with the only loop in its body, as ``loop_name``.

    Unlike ``transform.loop.coalesce`` it takes two loops of a deeper nest.
    """

    outer: ext.Operand[transform.AnyOpType]
    loop_name: ir.StringAttr


def load() -> None:
    """Attach the interfaces, in the current context."""
    attach(FuseLoops, _apply)


def _apply(op: ir.OpView, payload: list[ir.OpView], erase: Erase) -> None:
    for outer in payload:
        inner = inner_loop(outer)
        assert inner is not None  # checked before the operation was built
        low, step, outer_count = _bounds(outer)
        inner_low, inner_step, count = _bounds(inner)
        index = ir.IndexType.get()
        with ir.InsertionPoint(outer), outer.location:
            zero, one = arith.constant(index, 0), arith.constant(index, 1)
            total = arith.constant(index, outer_count * count)
            fused = scf.ForOp(zero, total, one, list(outer.initArgs))
        fused.attributes[LOOP] = op.loop_name
        for key in (KIND, OF):
            fused.attributes[key] = outer.attributes[key]
        _move_body(inner, fused)
        with ir.InsertionPoint.at_block_begin(fused.body), outer.location:
            counter, width = fused.induction_variable, arith.constant(index, count)
            first = arith.divui(counter, width)
            second = arith.remui(counter, width)
            outer.induction_variable.replace_all_uses_with(_scaled(first, step, low))
            inner.induction_variable.replace_all_uses_with(_scaled(second, inner_step, inner_low))
        for old, new in zip(outer.results, fused.results, strict=True):
            old.replace_all_uses_with(new)
        erase(outer.operation)


def _bounds(loop: scf.ForOp) -> tuple[int, int, int]:
    """First value, step and number of iterations."""
    low, high, step = (constant(v) or 0 for v in (loop.lowerBound, loop.upperBound, loop.step))
    return low, step, max(0, -(-(high - low) // step))


def _scaled(counter: ir.Value, step: int, low: int) -> ir.Value:
    index = ir.IndexType.get()
    return arith.addi(arith.muli(counter, arith.constant(index, step)), arith.constant(index, low))


def _move_body(inner: scf.ForOp, fused: scf.ForOp) -> None:
    anchor = ir.InsertionPoint(fused.body)
    for old, new in zip(inner.inner_iter_args, fused.inner_iter_args, strict=True):
        old.replace_all_uses_with(new)
    for op in list(inner.body.operations):
        if isinstance(op, scf.YieldOp):
            with anchor:
                scf.YieldOp(list(op.operands))
            op.operation.erase()
            break
        op.operation.detach_from_parent()
        anchor.insert(op)
