"""``schedule.interchange_loops``: swap a loop with the one directly inside it."""

from mlcflow.dialects.schedule.dialect import Erase, ScheduleDialect, attach
from mlcflow.mlir import ext, ir, scf, transform
from mlcflow.schedule.labels import LOOP_KEYS
from mlcflow.schedule.nests import inner_loop


class InterchangeLoops(ScheduleDialect.Operation, name="interchange_loops"):
    """Swap each ``scf.for`` of ``outer`` with the only loop in its body."""

    outer: ext.Operand[transform.AnyOpType]


def load() -> None:
    """Attach the interfaces, in the current context."""
    attach(InterchangeLoops, _apply)


def _apply(op: ir.OpView, payload: list[ir.OpView], erase: Erase) -> None:
    for outer in payload:
        inner = inner_loop(outer)
        assert inner is not None  # checked before the operation was built
        _swap_operands(outer, inner)
        _swap_uses(outer.induction_variable, inner.induction_variable)
        for key in LOOP_KEYS:
            _swap_attribute(outer, inner, key)


def _swap_operands(outer: scf.ForOp, inner: scf.ForOp) -> None:
    for number in range(3):  # lower bound, upper bound, step
        first, second = outer.operands[number], inner.operands[number]
        outer.operation.operands[number] = second
        inner.operation.operands[number] = first


def _swap_uses(first: ir.Value, second: ir.Value) -> None:
    first_uses = [(use.owner, use.operand_number) for use in first.uses]
    second_uses = [(use.owner, use.operand_number) for use in second.uses]
    for owner, number in first_uses:
        owner.operation.operands[number] = second
    for owner, number in second_uses:
        owner.operation.operands[number] = first


def _swap_attribute(outer: scf.ForOp, inner: scf.ForOp, key: str) -> None:
    first = outer.attributes.get(key, None)
    second = inner.attributes.get(key, None)
    for target, value in ((outer, second), (inner, first)):
        if value is not None:
            target.attributes[key] = value
        elif key in target.attributes:
            del target.attributes[key]
