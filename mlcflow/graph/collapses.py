"""Collapses of transposed and converted tensors, the other way round."""

from __future__ import annotations

import itertools

from mlcflow.graph.generic import dims, generic
from mlcflow.graph.linalg_ops import (
    captured,
    indexing_maps,
    inputs,
    is_elementwise,
    is_generic,
    owner,
    payload,
)
from mlcflow.mlir import ir, tensor, walk


def collapse_first(module: ir.Module) -> None:
    """Collapse what a transpose or cast reads, not what it makes, if it joins these dimensions.

    So the transpose, or cast, stands next to the product that may read its source.
    """
    for op in reversed(walk(module.operation)):
        while isinstance(op, tensor.CollapseShapeOp):
            copy = owner(op.src)
            if copy is None or not _is_converter(copy):
                break
            op = _swap(op, copy)


def _is_converter(op: ir.OpView) -> bool:
    """Whether ``op`` makes each element of one of its input, and serves one reader."""
    if not is_generic(op) or not is_elementwise(op) or len(inputs(op)) != 1:
        return False
    names = [inner.operation.name for inner in payload(op)]
    start = op.regions[0].blocks[0].arguments[1]
    return (
        len(op.results) == 1
        and len(list(op.results[0].uses)) == 1
        and "linalg.index" not in names
        and not list(start.uses)
        and not captured(op)
    )


def _swap(collapse: tensor.CollapseShapeOp, copy: ir.OpView) -> ir.OpView | None:
    """Collapse the source of ``copy``, if each group of dimensions lies there in this order; gives
    that collapse.
    """
    read = indexing_maps(copy)[0]
    source, whole = ir.RankedTensorType(inputs(copy)[0].type), collapse.result.type
    if not read.is_permutation or not source.has_static_shape:
        return None
    groups = [[ir.IntegerAttr(n).value for n in group] for group in collapse.reassociation]
    place = {each.position: number for number, each in enumerate(read.results)}
    moved = [[place[dim] for dim in group] for group in groups]
    if any(b != a + 1 for group in moved for a, b in itertools.pairwise(group)):
        return None
    order = sorted(range(len(groups)), key=lambda number: moved[number])
    sizes = list(ir.RankedTensorType(whole).shape)
    element = ir.RankedTensorType(whole).element_type
    with ir.InsertionPoint(collapse), collapse.location:
        kind = ir.RankedTensorType.get([sizes[number] for number in order], source.element_type)
        first = tensor.collapse_shape(kind, inputs(copy)[0], [moved[number] for number in order])
        loops = dims(len(sizes))
        result = generic(
            [first],
            tensor.empty(sizes, element),
            [[loops[number] for number in order], loops],
            ["parallel"] * len(sizes),
            copy.regions[0].blocks[0],
        )
    collapse.result.replace_all_uses_with(result)
    collapse.operation.erase()
    copy.operation.erase()
    return first.owner.opview
