"""Loops of linalg operations as several, of operands of a higher rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlcflow.graph.generic import generic
from mlcflow.graph.linalg_ops import (
    indexing_maps,
    inputs,
    is_empty,
    is_fill,
    loop_kinds,
    outputs,
    owner,
)
from mlcflow.mlir import arith, ir, linalg, tensor, walk

RESHAPES = (tensor.CollapseShapeOp, tensor.ExpandShapeOp)


def split_loops(op: ir.OpView, sizes: Mapping[int, Sequence[int]]) -> None:
    """Replace ``op`` by a generic in which the loops that ``sizes`` names are several, of these
    sizes.

    ``op`` has one result, and operands of known shape in which each dimension is a loop. They are
    expanded, and what reads the result has it collapsed.
    """
    loops, count = [], 0
    for number in range(len(loop_kinds(op))):
        parts = len(sizes.get(number, (0,)))
        loops.append(list(range(count, count + parts)))
        count += parts
    maps = [[e.position for e in each.results] for each in indexing_maps(op)]
    kinds = [kind for new, kind in zip(loops, loop_kinds(op), strict=True) for _ in new]
    with ir.InsertionPoint(op), op.location:
        *read, start = (
            _expand(value, [sizes.get(loop) for loop in each])
            for value, each in zip([*inputs(op), *outputs(op)], maps, strict=True)
        )
        new_maps = [
            [ir.AffineExpr.get_dim(n) for loop in each for n in loops[loop]] for each in maps
        ]
        result = generic(read, start, new_maps, kinds, op.regions[0].blocks[0])
        _number_again(result.owner.opview, loops, sizes)
        groups = _groups([sizes.get(loop) for loop in maps[-1]])
        old = op.results[0]
        if result.type != old.type:
            result = tensor.collapse_shape(old.type, result, groups)
    old.replace_all_uses_with(result)
    op.operation.erase()


def _groups(parts: Sequence[Sequence[int] | None]) -> list[list[int]]:
    """For each dimension those that it becomes."""
    found, count = [], 0
    for each in parts:
        number = len(each) if each else 1
        found.append(list(range(count, count + number)))
        count += number
    return found


def _expand(value: ir.Value, parts: Sequence[Sequence[int] | None]) -> ir.Value:
    """``value`` with those of its dimensions split that ``parts`` gives sizes for."""
    if not any(parts):
        return value
    old = ir.RankedTensorType(value.type)
    shape = [
        size for n, each in zip(old.shape, parts, strict=True) for size in (each if each else [n])
    ]
    op = owner(value)
    if is_empty(op):
        return tensor.empty(shape, old.element_type)
    if op is not None and is_fill(op):
        return linalg.fill(inputs(op)[0], outs=[_expand(outputs(op)[0], parts)])
    kind = ir.RankedTensorType.get(shape, old.element_type)
    return tensor.expand_shape(kind, value, _groups(parts), [], shape)


def _number_again(
    op: ir.OpView, loops: Sequence[Sequence[int]], sizes: Mapping[int, Sequence[int]]
) -> None:
    """Let the body of ``op`` ask for positions in the new loops instead of the old."""
    for inner in [each for each in walk(op) if isinstance(each, linalg.IndexOp)]:
        old = ir.IntegerAttr(inner.attributes["dim"]).value
        with ir.InsertionPoint(inner), inner.location:
            places = [linalg.IndexOp(number).result for number in loops[old]]
            position = places[0]
            for place, size in zip(places[1:], sizes.get(old, ())[1:], strict=True):
                factor = arith.constant(ir.IndexType.get(), size)
                position = arith.addi(arith.muli(position, factor), place)
        inner.result.replace_all_uses_with(position)
        inner.operation.erase()


def fold_reshapes(block: ir.Block) -> None:
    """Let what reads a tensor of known shape reshaped several times, in the end to what it was,
    read that.
    """
    for op in [each for each in block.operations if isinstance(each, RESHAPES)]:
        source = op.src
        if not ir.RankedTensorType(op.result.type).has_static_shape:
            continue
        while isinstance(before := owner(source), RESHAPES) and source.type != op.result.type:
            source = before.src
        if source.type == op.result.type:  # elements keep their order in all of them
            op.result.replace_all_uses_with(source)
    for op in reversed(list(block.operations)):
        if isinstance(op, RESHAPES) and not list(op.result.uses):
            op.operation.erase()
