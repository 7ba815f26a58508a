"""``schedule.fill_at``: set the initial value of a reduction inside a loop around it."""

from mlcflow.dialects.schedule.dialect import Erase, ScheduleDialect, attach
from mlcflow.graph.linalg_ops import outputs, owner
from mlcflow.mlir import ext, ir, linalg, transform
from mlcflow.schedule.fills import path_to_fill, tile_in
from mlcflow.schedule.labels import BLOCK, LOOP, OF, enclosing


class FillAt(ScheduleDialect.Operation, name="fill_at"):
    """Move the fill that each ``target`` accumulates into inside one of the loops around it.

    The loop is called ``loop_name`` of block ``loop_of``. The result of the fill reaches
    ``target`` as a value that the loops carry and slices of it; the loops that carry it, down to
    this one, are parallel, and in this one it is a slice.
    """

    target: ext.Operand[transform.AnyOpType]
    loop_name: ir.StringAttr
    loop_of: ir.StringAttr


def load() -> None:
    """Attach the interfaces, in the current context."""
    attach(FillAt, _apply)


def _apply(op: ir.OpView, payload: list[ir.OpView], erase: Erase) -> None:
    for target in payload:
        name = (op.loop_name, op.loop_of)
        around = enclosing(target)
        loop = next(at for at in around if (at.attributes[LOOP], at.attributes[OF]) == name)
        path = path_to_fill(target)
        place, fill = tile_in(path, loop), owner(path[-1])
        if place is None or fill is None:
            raise ValueError("no fill reaches the operation as a slice in the loop")
        _fill(place, fill, erase)


def _fill(place: ir.Value, fill: ir.OpView, erase: Erase) -> None:
    """Fill ``place`` instead of what the loops start from."""
    users = list(place.uses)
    with ir.InsertionPoint.after(place.owner), fill.location:
        inner = linalg.fill(fill.operands[0], outs=[place]).owner.operation
    inner.attributes[BLOCK] = fill.attributes[BLOCK]
    for use in users:
        use.owner.operands[use.operand_number] = inner.results[0]
    fill.results[0].replace_all_uses_with(outputs(fill)[0])
    erase(fill.operation)
