"""Scores that only keys up to the place of their query have."""

from __future__ import annotations

import math

from mlcflow.graph.linalg_ops import owner, payload
from mlcflow.mlir import affine, arith, ir, linalg

AT_LEAST = 5
"""The predicate ``sge`` of ``arith.cmpi``."""


def diagonal(op: ir.OpView) -> ir.Value | int | None:
    """By how much rows of ``op`` lie further than they count: element ``i, j`` is -inf unless
    ``i + diagonal >= j``. ``None`` where nothing of the kind is computed.
    """
    for inner in payload(op):
        if isinstance(inner, arith.SelectOp) and _is_lowest(inner.false_value) and _decides(inner):
            found = _reach(owner(inner.condition))
            if found is not None:
                return found
    return None


def _is_lowest(value: ir.Value) -> bool:
    constant = owner(value)
    if constant is None or constant.operation.name != "arith.constant":
        return False
    number = constant.attributes["value"]
    return isinstance(number, ir.FloatAttr) and number.value == -math.inf


def _decides(op: ir.OpView) -> bool:
    """Whether -inf from ``op`` is the result, or added to it."""
    uses = [use.owner.opview for use in op.operation.results[0].uses]
    if len(uses) != 1:
        return False
    (user,) = uses
    return isinstance(user, linalg.YieldOp) or (isinstance(user, arith.AddFOp) and _decides(user))


def _reach(condition: ir.OpView | None) -> ir.Value | int | None:
    """What ``row + x >= column`` adds to the row."""
    if not isinstance(condition, arith.CmpIOp):
        return None
    if ir.IntegerAttr(condition.attributes["predicate"]).value != AT_LEAST:
        return None
    row, column = (_place(value) for value in (condition.lhs, condition.rhs))
    if row is None or column is None or row[0] != 0 or column != (1, 0):
        return None
    return row[1]


def _place(value: ir.Value) -> tuple[int, ir.Value | int] | None:
    """The loop whose position a value is, and what is added to it."""
    op = owner(value)
    if isinstance(op, linalg.IndexOp):
        return ir.IntegerAttr(op.attributes["dim"]).value, 0
    if isinstance(op, arith.IndexCastOp):
        return _place(op.in_)
    if not isinstance(op, arith.AddIOp) and not (
        isinstance(op, affine.AffineApplyOp) and _is_sum(op)
    ):
        return None
    for position, other in (tuple(op.operands), tuple(op.operands)[::-1]):
        found = _place(position)
        if found is not None and found[1] == 0 and isinstance(other.type, ir.IndexType):
            return found[0], other
    return None


def _is_sum(op: affine.AffineApplyOp) -> bool:
    """Whether ``op`` adds its two operands."""
    (result,) = ir.AffineMapAttr(op.attributes["map"]).value.results
    return len(op.operands) == 2 and str(result) in ("d0 + d1", "d0 + s0", "s0 + s1")
