"""Division of integers: processors end the process where PyTorch raises an exception."""

from __future__ import annotations

from mlcflow.graph.assertions import check
from mlcflow.graph.gathers import FIXED, origin
from mlcflow.mlir import arith, ir, walk

_DIVISIONS = (
    arith.DivSIOp, arith.DivUIOp, arith.RemSIOp, arith.RemUIOp,
    arith.FloorDivSIOp, arith.CeilDivSIOp, arith.CeilDivUIOp,
)  # fmt: skip


def guard_divisions(module: ir.Module) -> None:
    """Check that integers are not divided by a zero that comes from the data.

    The check is an assertion, which becomes an ``ExecutionError``; the division itself is by 1
    then. The quotient of the lowest number and -1, which has no representation, ends the
    process as well: division by -1 is negation, which wraps around.
    """
    known: dict[ir.Value, int] = {}
    for op in walk(module.operation):
        if isinstance(op, _DIVISIONS) and origin(op.rhs, known) != FIXED:
            with ir.InsertionPoint(op), op.location:
                zero, one = arith.constant(op.rhs.type, 0), arith.constant(op.rhs.type, 1)
                valid = arith.cmpi(arith.CmpIPredicate.ne, op.rhs, zero)
                check(valid, "an integer is divided by zero")
                divisor = arith.select(valid, op.rhs, one)
                if isinstance(op, arith.DivUIOp | arith.RemUIOp | arith.CeilDivUIOp):
                    op.operation.operands[1] = divisor
                else:
                    _divide(op, divisor, zero, one)


def _divide(op: ir.OpView, divisor: ir.Value, zero: ir.Value, one: ir.Value) -> None:
    """Divide ``-x`` by 1 for ``x`` by -1; the remainder is 0 both times."""
    negative = arith.cmpi(arith.CmpIPredicate.eq, divisor, arith.subi(zero, one))
    op.operation.operands[0] = arith.select(negative, arith.subi(zero, op.lhs), op.lhs)
    op.operation.operands[1] = arith.select(negative, one, divisor)
