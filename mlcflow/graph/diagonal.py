"""Masks that hide from each row what lies behind its place, such as that of a causal model."""

from __future__ import annotations

from mlcflow.graph.linalg_ops import loop_kinds, owner, payload
from mlcflow.mlir import affine, arith, ir, linalg

HIDDEN = -3e38
"""What is added to a score that is hidden, at most: its power is 0."""

SIGNS = {"ge": "le", "gt": "lt", "le": "ge", "lt": "gt"}
"""Signs of comparisons, and what they are with the sides exchanged."""


def diagonal(op: ir.OpView) -> ir.Value | int | None:
    """By how much the rows of ``op`` lie further than they count.

    Element ``i, j`` of its last two loops is hidden unless ``i + diagonal >= j``. ``None`` where
    nothing of the kind is computed.
    """
    rows, columns = len(loop_kinds(op)) - 2, len(loop_kinds(op)) - 1
    for select in payload(op):
        if not isinstance(select, arith.SelectOp) or not _decides(select):
            continue
        order = _order(owner(select.condition), rows, columns)
        hidden = {"ge": select.false_value, "lt": select.true_value}.get(order[0] if order else "")
        if order is not None and hidden is not None and _is_hidden(hidden):
            return order[1]
    return None


def _is_hidden(value: ir.Value) -> bool:
    op = owner(value)
    return isinstance(op, arith.ConstantOp) and float(op.literal_value) <= HIDDEN


def _decides(op: ir.OpView) -> bool:
    """Whether what ``op`` gives is the result, or added to it."""
    uses = [use.owner.opview for use in op.operation.results[0].uses]
    if len(uses) != 1:
        return False
    (user,) = uses
    return isinstance(user, linalg.YieldOp) or (isinstance(user, arith.AddFOp) and _decides(user))


def _order(
    condition: ir.OpView | None, rows: int, columns: int
) -> tuple[str, ir.Value | int] | None:
    """The sign of a comparison ``row + x`` with ``column``, and ``x``."""
    if not isinstance(condition, arith.CmpIOp):
        return None
    predicate = ir.IntegerAttr(condition.attributes["predicate"]).value
    sign = arith.CmpIPredicate(predicate).name.lstrip("su")
    row, column = (_place(value) for value in (condition.lhs, condition.rhs))
    if row is not None and row[0] == columns:
        row, column, sign = column, row, SIGNS.get(sign, "")
    if row is None or row[0] != rows or column != (columns, 0):
        return None
    return sign, row[1]


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
