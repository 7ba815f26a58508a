"""Where the elementwise consumer of a loop nest can be computed inside it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlcflow.graph.linalg_ops import (
    captured,
    indexing_maps,
    is_elementwise,
    is_identity,
    owner,
    payload,
)
from mlcflow.mlir import ir, scf, tensor
from mlcflow.schedule.labels import KIND, trip_count
from mlcflow.schedule.nests import PURE


@dataclass(frozen=True)
class Consumption:
    """A nest that makes a tensor tile by tile, and the operation that reads the tensor.

    ``loops`` are perfectly nested, outermost first; the body of the last ends with ``insert``.
    """

    loops: tuple[scf.ForOp, ...]
    insert: tensor.InsertSliceOp


def nest_of(consumer: ir.OpView, loop: scf.ForOp) -> list[scf.ForOp]:
    """``loop`` and the loops around it, outermost first, up to the block of ``consumer``."""
    found, parent = [loop], loop.operation.parent
    while parent is not None and parent != consumer.operation.parent:
        if not isinstance(parent.opview, scf.ForOp):
            return []
        found.append(parent.opview)
        parent = parent.parent
    return found[::-1] if parent is not None else []


def consumption(consumer: ir.OpView, loop: scf.ForOp) -> Consumption | str:
    """How ``consumer`` reads what the nest down to ``loop`` makes; or why it cannot be moved."""
    loops = nest_of(consumer, loop)
    if not loops:
        return "it is not computed after the loop"
    problem = (
        why_not_elementwise(consumer) or _why_no_tiles(loops) or _why_not_read(consumer, loops)
    )
    if problem:
        return problem
    last = loop.body.operations[len(loop.body.operations) - 1].operands[0]
    insert = owner(last)
    if not isinstance(insert, tensor.InsertSliceOp) or insert.dest != loop.inner_iter_args[0]:
        return "an iteration of the loop does not end with its tile"
    if not _covers(insert, loops):
        return "the iterations do not make each element of the tensor once"
    return Consumption(tuple(loops), insert)


def why_not_elementwise(consumer: ir.OpView) -> str:
    """Why an operation cannot be computed a tile at a time; empty if it can."""
    if not is_elementwise(consumer) or len(consumer.results) != 1:
        return "it is not elementwise with one result"
    if any(inner.operation.name == "linalg.index" for inner in payload(consumer)):
        return "it computes with its own position"
    if any(isinstance(value.type, ir.ShapedType) for value in captured(consumer)):
        return "it reads a tensor it does not name as operand"
    single = (ir.AffineDimExpr, ir.AffineConstantExpr)
    maps = indexing_maps(consumer)
    if not all(isinstance(e, single) for m in maps for e in m.results):
        return "it reads elements at computed positions"
    return ""


def _why_no_tiles(loops: list[scf.ForOp]) -> str:
    for loop in loops:
        if len(loop.initArgs) != 1:
            return "a loop carries several values"
        kind = loop.attributes.get(KIND, None)
        if kind is None or ir.StringAttr(kind).value != "parallel":
            return "a tile is complete only after the reduction loops"
        if trip_count(loop) < 1:
            return "the bounds of a loop are not constant"
    return ""


def _why_not_read(consumer: ir.OpView, loops: list[scf.ForOp]) -> str:
    made = loops[0].results[0]
    if any(use.owner != consumer.operation for use in made.uses):
        return "others read the tensor too"
    maps = indexing_maps(consumer)
    reads = [m for value, m in zip(consumer.operands, maps, strict=True) if value == made]
    if not reads or consumer.operands[len(consumer.operands) - 1] == made:
        return "it does not read what the loop makes"
    if not all(is_identity(m) for m in reads):
        return "it does not read the tensor element by element"
    others = [value for value in [*consumer.operands, *captured(consumer)] if value != made]
    if any(taken_after(value, loops[0]) is None for value in others):
        return "it reads what is computed after the loop"
    return ""


def taken_after(value: ir.Value, loop: scf.ForOp) -> list[ir.OpView] | None:
    """The slices and positions behind ``loop`` that ``value`` is taken by, in order.

    They can be computed before the loop as well. ``None`` if there is work among them.
    """
    producer = owner(value)
    if producer is None or producer.operation.parent != loop.operation.parent:
        return []  # the value belongs to something around both
    if producer.operation.is_before_in_block(loop.operation):
        return []
    if producer.operation.name not in PURE:
        return None
    found: list[ir.OpView] = []
    for operand in producer.operation.operands:
        needed = taken_after(operand, loop)
        if needed is None:
            return None
        found += needed
    return [*found, producer.opview]


def _covers(insert: tensor.InsertSliceOp, loops: list[scf.ForOp]) -> bool:
    """Whether the tiles fill the tensor. Those of parallel loops do not overlap."""
    tile = ir.RankedTensorType(insert.source.type)
    whole = ir.RankedTensorType(insert.result.type)
    if tile.rank != whole.rank or not (tile.has_static_shape and whole.has_static_shape):
        return False
    if any(stride != 1 for stride in insert.static_strides):
        return False
    tiles = math.prod(trip_count(loop) for loop in loops)
    return tiles * math.prod(tile.shape) == math.prod(whole.shape)
