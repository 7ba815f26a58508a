"""``schedule.cache_read``: copy an operand into memory of its own before it is read."""

from mlcflow.dialects.schedule.dialect import Erase, ScheduleDialect, attach
from mlcflow.mlir import arith, ext, ir, linalg, tensor, transform
from mlcflow.schedule.labels import BLOCK


class CacheRead(ScheduleDialect.Operation, name="cache_read"):
    """Copy operand ``operand_number`` of each operation of ``target`` just before it.

    The copy is a ``linalg.copy`` block called ``block_name``.
    """

    target: ext.Operand[transform.AnyOpType]
    operand_number: ir.IntegerAttr
    block_name: ir.StringAttr


def load() -> None:
    """Attach the interfaces, in the current context."""
    attach(CacheRead, _apply)


def _apply(op: ir.OpView, payload: list[ir.OpView], erase: Erase) -> None:
    number = op.operand_number.value
    for target in payload:
        value = target.operands[number]
        with ir.InsertionPoint(target), target.location:
            copy = copy_of(value, empty_like(value))
        copy.attributes[BLOCK] = op.block_name
        target.operation.operands[number] = copy.results[0]


def empty_like(value: ir.Value) -> ir.Value:
    """An empty tensor of the type of ``value``."""
    kind = ir.RankedTensorType(value.type)
    sizes = [
        tensor.dim(value, _index(number)) if kind.is_dynamic_dim(number) else kind.shape[number]
        for number in range(kind.rank)
    ]
    return tensor.empty(sizes, kind.element_type)


def copy_of(source: ir.Value, destination: ir.Value) -> ir.Operation:
    """A ``linalg.copy`` from ``source`` to ``destination``."""
    return linalg.copy(source, outs=[destination]).owner.operation


def _index(number: int) -> ir.Value:
    return arith.constant(ir.IndexType.get(), number)
