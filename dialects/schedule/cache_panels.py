"""``schedule.cache_panels``: copy what the iterations of a loop read, before the loop."""

from mlcflow.dialects.schedule.cache_read import copy_of
from mlcflow.dialects.schedule.dialect import Erase, ScheduleDialect, attach
from mlcflow.graph.linalg_ops import indexing_maps
from mlcflow.mlir import affine, ext, ir, linalg, scf, tensor, transform
from mlcflow.schedule.labels import BLOCK, KIND, LOOP, OF, constant, enclosing, trip_count


class CachePanels(ScheduleDialect.Operation, name="cache_panels"):
    """Copy the slices that operand ``operand_number`` of ``target`` is in each iteration of a loop.

    The loop is the one around ``target`` called ``loop_name`` of block ``loop_of``. The copies
    lie one after the other, an iteration each, in a tensor that a loop ahead of it, or of the
    loop ``ahead_name`` of ``ahead_of`` around it, fills; they are ``linalg.copy`` blocks called
    ``block_name``; or, with a ``permutation`` of the dimensions, ``linalg.transpose``, and
    ``target`` is a generic that reads them in the new order. The operand is a slice of static
    size whose position no other loop inside that loop changes.
    """

    target: ext.Operand[transform.AnyOpType]
    operand_number: ir.IntegerAttr
    loop_name: ir.StringAttr
    loop_of: ir.StringAttr
    ahead_name: ir.StringAttr
    ahead_of: ir.StringAttr
    block_name: ir.StringAttr
    permutation: ir.ArrayAttr


def load() -> None:
    """Attach the interfaces, in the current context."""
    attach(CachePanels, _apply)


def _apply(op: ir.OpView, payload: list[ir.OpView], erase: Erase) -> None:
    for target in payload:
        around = {_names(each): each for each in enclosing(target)}
        loop, outer = around[op.loop_name, op.loop_of], around[op.ahead_name, op.ahead_of]
        number = op.operand_number.value
        order = [ir.IntegerAttr(each).value for each in op.permutation]
        _cache(target, number, (loop, outer), op.block_name, order)


def _names(loop: scf.ForOp) -> tuple:
    return (loop.attributes[LOOP], loop.attributes[OF])


def _cache(
    target: ir.OpView,
    number: int,
    loops: tuple[scf.ForOp, scf.ForOp],
    name: ir.StringAttr,
    order: list[int],
) -> None:
    loop, outer = loops
    old = target.operands[number].owner.opview
    read = ir.RankedTensorType(old.result.type)
    shape = [read.shape[dimension] for dimension in order]
    kind = ir.RankedTensorType.get(shape, read.element_type)
    with ir.InsertionPoint(outer), target.location:
        panels = tensor.empty([trip_count(loop), *kind.shape], kind.element_type)
        bounds = [_clone_value(v, outer) for v in (loop.lowerBound, loop.upperBound, loop.step)]
        ahead = scf.ForOp(*bounds, [panels])
        for key, value in (
            (LOOP, loop.attributes[LOOP]),
            (OF, name),
            (KIND, loop.attributes[KIND]),
        ):
            ahead.attributes[key] = value
    with ir.InsertionPoint(ahead.body), target.location:
        source = _clone(old, {loop.induction_variable: ahead.induction_variable}, outer)
        place = _panel(ahead.inner_iter_args[0], kind, _turn(ahead))
        copy = _turned(source, place, order)
        copy.attributes[BLOCK] = name
        scf.YieldOp([_put(copy.results[0], ahead.inner_iter_args[0], place)])
    with ir.InsertionPoint(old), target.location:
        panel = _panel(ahead.results[0], kind, _turn(loop))
    target.operation.operands[number] = panel
    if order != sorted(order):
        _read_turned(target, number, order)


def _turned(source: ir.Value, place: ir.Value, order: list[int]) -> ir.Operation:
    if order == sorted(order):
        return copy_of(source, place)
    return linalg.transpose(source, outs=[place], permutation=order).operation


def _read_turned(target: ir.OpView, number: int, order: list[int]) -> None:
    """Let ``target`` find the dimensions of an operand in another order."""
    maps = indexing_maps(target)
    old = maps[number]
    maps[number] = ir.AffineMap.get(old.n_dims, 0, [old.results[each] for each in order])
    attributes = [ir.AffineMapAttr.get(each) for each in maps]
    target.attributes["indexing_maps"] = ir.ArrayAttr.get(attributes)


def _turn(loop: scf.ForOp) -> ir.Value:
    """The number of the iteration."""
    first, step = constant(loop.lowerBound) or 0, constant(loop.step) or 1
    expression = ir.AffineExpr.get_floor_div(ir.AffineExpr.get_dim(0) - first, step)
    return affine.AffineApplyOp(
        ir.AffineMap.get(1, 0, [expression]), [loop.induction_variable]
    ).result


def _clone(op: ir.OpView, known: dict[ir.Value, ir.Value], loop: scf.ForOp) -> ir.Value:
    """A copy of the value of ``op`` and of what inside ``loop`` it depends on."""
    copy = op.operation.clone()
    for index, operand in enumerate(op.operation.operands):
        if operand in known:
            copy.operands[index] = known[operand]
        elif not isinstance(operand.owner, ir.Block) and _inside(operand.owner, loop):
            at = ir.InsertionPoint(copy)
            with at:
                copy.operands[index] = _clone(operand.owner.opview, known, loop)
    return copy.results[0]


def _clone_value(value: ir.Value, loop: scf.ForOp) -> ir.Value:
    """``value``, a constant, as it is before ``loop``."""
    if isinstance(value.owner, ir.Block) or not _inside(value.owner, loop):
        return value
    return _clone(value.owner.opview, {}, loop)


def _inside(op: ir.Operation, loop: scf.ForOp) -> bool:
    parent = op.operation.parent
    while parent is not None and parent != loop.operation:
        parent = parent.parent
    return parent is not None


def _panel(panels: ir.Value, kind: ir.RankedTensorType, turn: ir.Value) -> ir.Value:
    """Panel number ``turn``, without the dimension that numbers them."""
    return tensor.extract_slice(kind, panels, [turn], [], [], *_static(kind))


def _put(panel: ir.Value, panels: ir.Value, place: ir.Value) -> ir.Value:
    kind = ir.RankedTensorType(panel.type)
    return tensor.insert_slice(panel, panels, [place.owner.operands[1]], [], [], *_static(kind))


def _static(kind: ir.RankedTensorType) -> tuple[list[int], list[int], list[int]]:
    """Offsets, sizes and strides of one panel, the first offset given at run time."""
    dynamic = ir.ShapedType.get_dynamic_size()
    rank = len(kind.shape)
    return [dynamic, *[0] * rank], [1, *kind.shape], [1] * (rank + 1)
