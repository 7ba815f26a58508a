"""``schedule.drop_window``: read a strided slice instead of moving through a window of size 1."""

from mlcflow.dialects.schedule.dialect import Erase, ScheduleDialect, attach
from mlcflow.graph.kernel import loop_extents
from mlcflow.graph.linalg_ops import indexing_maps
from mlcflow.graph.window import position_of
from mlcflow.mlir import ext, ir, tensor, transform


class DropWindow(ScheduleDialect.Operation, name="drop_window"):
    """Let each ``linalg.generic`` of ``target`` read what its windows cover as strided slices.

    A position such as ``2 * x + r`` in which all loops but one have one iteration becomes the
    loop alone, over a slice with the stride. What is left is a contraction or an elementwise
    operation, also where the window moves by more than 1: upstream's folding of unit extents
    leaves the factor. Positions of several larger loops stay. A constant position goes into
    the slice as well.
    """

    target: ext.Operand[transform.AnyOpType]


def load() -> None:
    """Attach the interfaces, in the current context."""
    attach(DropWindow, _apply)


def _apply(op: ir.OpView, payload: list[ir.OpView], erase: Erase) -> None:
    for target in payload:
        extents = loop_extents(target)
        maps = indexing_maps(target)
        count = len(target.operands) - len(target.results)
        for number in range(count):
            maps[number] = _drop(target, number, maps[number], extents)
        target.attributes["indexing_maps"] = ir.ArrayAttr.get(
            [ir.AffineMapAttr.get(m) for m in maps]
        )


def _drop(
    target: ir.OpView, number: int, affine_map: ir.AffineMap, extents: tuple[int, ...]
) -> ir.AffineMap:
    """Slice operand ``number`` where its map asks for it; gives the map into the slice."""
    value = target.operands[number]
    if not isinstance(value.type, ir.ShapedType):
        return affine_map
    kind = ir.RankedTensorType(value.type)
    offsets, sizes, strides, results = [0] * kind.rank, list(kind.shape), [1] * kind.rank, []
    dropped: list[int] = []
    for dim, expression in enumerate(affine_map.results):
        if isinstance(expression, ir.AffineConstantExpr) and kind.shape[dim] > 1:
            sizes[dim], offsets[dim] = 1, expression.value
            dropped.append(dim)
            continue
        found = None if is_simple(expression) else position_of(expression, extents)
        if found is None:
            results.append(expression)
            continue
        loop, strides[dim], offsets[dim] = found
        sizes[dim] = extents[loop]
        results.append(ir.AffineExpr.get_dim(loop))
    if results == list(affine_map.results):
        return affine_map
    with ir.InsertionPoint(target), target.location:
        left = [size for dim, size in enumerate(sizes) if dim not in dropped]
        sliced = ir.RankedTensorType.get(left, kind.element_type)
        target.operation.operands[number] = tensor.extract_slice(
            sliced, value, [], [], [], offsets, sizes, strides
        )
    return ir.AffineMap.get(affine_map.n_dims, 0, results)


def is_simple(expression: ir.AffineExpr) -> bool:
    """A loop alone, or a constant."""
    return isinstance(expression, ir.AffineDimExpr | ir.AffineConstantExpr)
