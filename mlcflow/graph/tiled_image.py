"""Images whose positions are in tiles, and what is done to each of their elements."""

from __future__ import annotations

from mlcflow.graph.generic import dims, generic
from mlcflow.graph.linalg_ops import (
    indexing_maps,
    is_elementwise,
    is_empty,
    outputs,
    owner,
    payload,
)
from mlcflow.mlir import ir, tensor

GROUPS = [[0], [1, 2], [3, 4], [5]]
"""The dimensions of a tiled image that are one of an image."""


def replace_by_tiles(old: ir.Value, tiled: ir.Value) -> None:
    """Let ``tiled[n, ty, dy, tx, dx, c]`` take the place of the image ``old[n, y, x, c]``.

    Elementwise operations that follow work on the tiles, so that they fuse with what makes
    them; the image, which is the same memory, is for what comes behind. Where the tiles are
    more than the image, it is a part of theirs.
    """
    reader = _epilogue(old) if _is_whole(old, tiled) else None
    if reader is None:
        with ir.InsertionPoint.after(tiled.owner):
            old.replace_all_uses_with(_image(old, tiled))
        return
    with ir.InsertionPoint(reader), reader.location:
        new = _on_tiles(reader, old, tiled)
    replace_by_tiles(reader.results[0], new)
    reader.operation.erase()


def _shape(value: ir.Value) -> list[int]:
    return list(ir.RankedTensorType(value.type).shape)


def _merged(tiled: ir.Value) -> list[int]:
    n, ty, dy, tx, dx, c = _shape(tiled)
    return [n, ty * dy, tx * dx, c]


def _is_whole(image: ir.Value, tiled: ir.Value) -> bool:
    return _shape(image) == _merged(tiled)


def _image(old: ir.Value, tiled: ir.Value) -> ir.Value:
    kind = ir.RankedTensorType(tiled.type).element_type
    whole = tensor.collapse_shape(ir.RankedTensorType.get(_merged(tiled), kind), tiled, GROUPS)
    if _is_whole(old, tiled):
        return whole
    return tensor.extract_slice(old.type, whole, [], [], [], [0] * 4, _shape(old), [1] * 4)


def _epilogue(value: ir.Value) -> ir.OpView | None:
    """The elementwise operation that alone reads ``value``, and gives one of the same shape."""
    readers = {use.owner for use in value.uses}
    op = next(iter(readers)).opview if len(readers) == 1 else None
    if op is None or not is_elementwise(op) or len(op.results) != 1 or value in outputs(op):
        return None
    if op.results[0].type != value.type:
        return None
    maps = indexing_maps(op)
    simple = (ir.AffineDimExpr, ir.AffineConstantExpr)  # 0 where there is one image only
    is_simple = all(isinstance(e, simple) for each in maps for e in each.results)
    by_index = any(inner.operation.name == "linalg.index" for inner in payload(op))
    return op if is_simple and not by_index else None


def _on_tiles(op: ir.OpView, value: ir.Value, tiled: ir.Value) -> ir.Value:
    """``op``, with ``tiled`` in place of the image ``value``."""
    every, extents = dims(6), _shape(tiled)
    operands, maps = [], []
    for operand, affine_map in zip(op.operands, indexing_maps(op), strict=True):
        groups = [_group(e) for e in affine_map.results]
        places = [
            [every[loop] for loop in group] or [e]
            for group, e in zip(groups, affine_map.results, strict=True)
        ]
        maps.append([e for place in places for e in place])
        operands.append(tiled if operand == value else _in_tiles(operand, groups, extents))
    body = op.operation.regions[0].blocks[0]
    return generic(operands[:-1], operands[-1], maps, ["parallel"] * 6, body)


def _group(expression: ir.AffineExpr) -> list[int]:
    """The loops that a loop becomes; none if ``expression`` is a constant."""
    return GROUPS[expression.position] if isinstance(expression, ir.AffineDimExpr) else []


def _in_tiles(value: ir.Value, groups: list[list[int]], extents: list[int]) -> ir.Value:
    """``value`` with each of its dimensions split into the loops of its group."""
    if all(len(group) < 2 for group in groups):
        return value
    kind = ir.RankedTensorType(value.type)
    parts = [
        [extents[loop] for loop in group] or [size]
        for group, size in zip(groups, kind.shape, strict=True)
    ]
    shape = [size for part in parts for size in part]
    if is_empty(owner(value)):
        return tensor.empty(shape, kind.element_type)
    result = ir.RankedTensorType.get(shape, kind.element_type)
    ends = [sum(map(len, parts[: number + 1])) for number in range(len(parts))]
    split = [list(range(end - len(p), end)) for p, end in zip(parts, ends, strict=True)]
    return tensor.expand_shape(result, value, split, [], shape)
