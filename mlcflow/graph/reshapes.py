"""Moving changes of shape out of the way of fusion."""

from __future__ import annotations

from mlcflow.graph.choices import loops_that_choose
from mlcflow.graph.kernel import loop_extents
from mlcflow.graph.linalg_ops import (
    indexing_maps,
    inputs,
    is_elementwise,
    is_empty,
    is_fill,
    is_generic,
    is_identity,
    iterators,
    outputs,
    owner,
)
from mlcflow.mlir import ir, linalg, tensor, walk

Groups = list[list[int]]
"""For each dimension of the lower rank, the dimensions of the higher that it stands for."""


def sink_expansions(module: ir.Module) -> None:
    """Do elementwise work, and reduce, before an ``expand_shape`` instead of after it.

    torch-mlir flattens the rows of a matrix product and expands its result, which parts the
    product from its bias and activation. The other operands are collapsed, which costs
    nothing; upstream's own fold (by expansion) would raise the rank of the contraction
    instead, which no schedule expects.
    """
    for op in walk(module.operation):
        is_reduction = is_generic(op) and "reduction" in iterators(op)
        is_one = (is_elementwise(op) or is_reduction) and len(op.operation.results) == 1
        if is_one and not linalg.isa_contraction_op(op.operation) and not _reads_indices(op):
            _sink(op)


def _reads_indices(op: ir.OpView) -> bool:
    return any(inner.operation.name == "linalg.index" for inner in walk(op))


def _sink(op: ir.OpView) -> None:
    maps = indexing_maps(op)
    groups = _expansion(op, maps)
    if groups is None or not ir.ShapedType(op.results[0].type).has_static_shape:
        return
    extents, kinds = list(loop_extents(op)), iterators(op)
    if any(len({kinds[dim] for dim in group}) > 1 for group in groups):
        return
    merges = [_merge(affine_map, groups, extents) for affine_map in maps]
    if any(merge is None for merge in merges):
        return
    with ir.InsertionPoint(op), op.location:
        operands = [
            collapse(value, merge[0])
            for value, merge in zip(op.operation.operands, merges, strict=True)
            if merge is not None
        ]
        new_maps = [
            ir.AffineMap.get(len(groups), 0, [ir.AffineExpr.get_dim(d) for d in merge[1]])
            for merge in merges
            if merge is not None
        ]
        count = len(inputs(op))
        generic = linalg.GenericOp(
            [operands[-1].type],
            operands[:count],
            operands[count:],
            ir.ArrayAttr.get([ir.AffineMapAttr.get(m) for m in new_maps]),
            ir.ArrayAttr.get(
                [ir.Attribute.parse(f"#linalg.iterator_type<{kinds[g[0]]}>") for g in groups]
            ),
        )
        op.operation.regions[0].blocks[0].append_to(generic.regions[0])
        kind = ir.RankedTensorType(op.results[0].type)
        expanded = generic.results[0]
        if merges[-1] is not None and len(merges[-1][0]) < kind.rank:
            expanded = tensor.expand_shape(kind, expanded, merges[-1][0], [], kind.shape)
    op.results[0].replace_all_uses_with(expanded)
    op.operation.erase()


def _expansion(op: ir.OpView, maps: list[ir.AffineMap]) -> Groups | None:
    """How the first input that is an expanded tensor, read in order, was expanded.

    ``None`` where another input is made tile by tile: collapsed, it would be stored first.
    """
    if any(_is_tiled(value) for value in inputs(op)):
        return None
    for value, affine_map in zip(inputs(op), maps, strict=False):
        producer = owner(value)
        if isinstance(producer, tensor.ExpandShapeOp) and is_identity(affine_map):
            return [
                [ir.IntegerAttr(dim).value for dim in ir.ArrayAttr(group)]
                for group in producer.reassociation
            ]
    return None


def _is_tiled(value: ir.Value) -> bool:
    """Whether ``value``, or what elementwise operations make it of, is picked by position."""
    pending, seen = [value], {value}
    while pending:
        op = owner(pending.pop())
        if op is not None and is_elementwise(op):
            if loops_that_choose(op, loop_extents(op)):
                return True
            read = {each for each in inputs(op) if each.type == op.results[0].type}
            pending += read - seen
            seen |= read
    return False


def _merge(
    affine_map: ir.AffineMap, groups: Groups, extents: list[int]
) -> tuple[Groups, list[int]] | None:
    """How an operand collapses, and the loops that it then runs over.

    ``None`` if it runs over a part of a group only, or not in order.
    """
    dims = []
    for expression in affine_map.results:
        if not isinstance(expression, ir.AffineDimExpr):
            return None
        dims.append(expression.position)
    if dims != sorted(set(dims)):
        return None
    merged: Groups = []
    loops = []
    for number, group in enumerate(groups):
        present = [dims.index(dim) for dim in group if dim in dims]
        wide = [dim for dim in group if extents[dim] > 1]
        if present and any(dim not in dims for dim in wide):
            return None
        if present:
            merged.append(present)
            loops.append(number)
    return merged, loops


def collapse(value: ir.Value, merged: Groups) -> ir.Value:
    """``value``, of known shape, with each list of dimensions in ``merged`` made one."""
    kind = ir.RankedTensorType(value.type)
    if len(merged) == kind.rank:
        return value
    shape = [1] * len(merged)
    for number, group in enumerate(merged):
        for dim in group:
            shape[number] *= kind.shape[dim]
    producer = owner(value)
    if is_empty(producer):
        return tensor.empty(shape, kind.element_type)
    if producer is not None and is_fill(producer):
        return linalg.fill(inputs(producer)[0], outs=[collapse(outputs(producer)[0], merged)])
    return tensor.collapse_shape(ir.RankedTensorType.get(shape, kind.element_type), value, merged)
