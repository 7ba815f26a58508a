"""Maxima through which NaN need not go: one instruction on x86 instead of four."""

from __future__ import annotations

from mlcflow.mlir import arith, ir, scf, vector, walk
from mlcflow.vector_math.bounds import ANY_IF_NAN


def choose_larger(module: ir.Module) -> None:
    """A step: replace the maxima that are noted to be any number if an operand is NaN."""
    for op in [op for op in walk(module.operation) if _is_loose(op)]:
        with ir.InsertionPoint(op), op.location:
            result = _maximum(op)
        op.results[0].replace_all_uses_with(result)
        op.operation.erase()


def _is_loose(op: ir.OpView) -> bool:
    """Whether ``op`` is a maximum that is noted to be ``ANY_IF_NAN``, or reduces such ones."""
    if isinstance(op, vector.ReductionOp):
        largest = ir.Attribute.parse("#vector.kind<maximumf>", op.context)
        return op.kind == largest and _maker(op.vector) is not None
    return ANY_IF_NAN in op.operation.attributes


def _maker(value: ir.Value) -> ir.OpView | None:
    """The loose maximum that ``value`` comes from, perhaps out of a loop."""
    if isinstance(value.owner, ir.Block):
        return None
    op = value.owner.opview
    if isinstance(op, scf.ForOp):
        last = op.body.operations[len(op.body.operations) - 1]
        return _maker(last.operands[list(op.results).index(value)])
    return op if ANY_IF_NAN in op.operation.attributes else None


def _maximum(op: ir.OpView) -> ir.Value:
    """What stands for ``op``, at the insertion point: comparisons, a reduction by halves."""
    if not isinstance(op, vector.ReductionOp):
        return _larger(*op.operands)
    value = op.vector
    while (count := ir.VectorType(value.type).shape[0]) % 2 == 0:
        value = _larger(*(_part(value, start, count // 2) for start in (0, count // 2)))
    rest = [vector.extract(value, [], [number]) for number in range(count)]
    found = rest[0] if op.acc is None else op.acc
    for other in rest if op.acc is not None else rest[1:]:
        found = _larger(found, other)
    return found


def _larger(x: ir.Value, y: ir.Value) -> ir.Value:
    return arith.select(arith.cmpf(arith.CmpFPredicate.OGT, x, y), x, y)


def _part(value: ir.Value, start: int, size: int) -> ir.Value:
    kind = ir.VectorType.get([size], ir.VectorType(value.type).element_type)
    return vector.extract_strided_slice(kind, value, [start], [size], [1])
