"""Products read transposed matrices as they are."""

from __future__ import annotations

from mlcflow.graph.generic import generic
from mlcflow.graph.linalg_ops import (
    indexing_maps,
    inputs,
    is_copy,
    is_generic,
    loop_kinds,
    outputs,
    owner,
)
from mlcflow.mlir import ir, linalg, walk

WIDE = 256
"""Columns from which on the schedule of a product copies its right matrix into panels anyway."""


def fold_transposes(module: ir.Module) -> None:
    """Let ``A x transpose(B)`` read B, where nobody else reads the transpose.

    So ``torch.nn.Linear`` keeps its weights. The copy into panels turns them on the way, which
    saves a pass over memory, and the memory: at load time for weights, in each call for others.
    """
    for op in walk(module.operation):
        is_one = op.operation.name.startswith("linalg.") and len(op.operation.results) == 1
        if is_one and linalg.isa_contraction_op(op.operation) and len(inputs(op)) == 2:
            _fold(op)


def _fold(op: ir.OpView) -> None:
    left, right = inputs(op)
    order = _swap(right)
    maps = indexing_maps(op)
    width = ir.ShapedType(right.type).get_dim_size(ir.ShapedType(right.type).rank - 1)
    is_last = list(maps[1].results)[-1:] == list(maps[2].results)[-1:]
    if order is None or not is_last or width < WIDE:
        return
    read = [maps[1].results[number] for number in order]
    transpose = owner(right)
    assert transpose is not None
    with ir.InsertionPoint(op), op.location:
        result = generic(
            [left, transpose.operands[0]],
            outputs(op)[0],
            [list(maps[0].results), read, list(maps[2].results)],
            loop_kinds(op),
            op.regions[0].blocks[0],
        )
    op.results[0].replace_all_uses_with(result)
    op.operation.erase()
    transpose.operation.erase()


def _swap(value: ir.Value) -> list[int] | None:
    """How the source of a transpose of the last two dimensions, used once, names its own."""
    producer = owner(value)
    if producer is None or not is_generic(producer) or not is_copy(producer):
        return None
    kind = ir.ShapedType(value.type)
    if not kind.has_static_shape or kind.rank < 2 or len(list(value.uses)) != 1:
        return None
    read = [
        each.position if isinstance(each, ir.AffineDimExpr) else -1
        for each in indexing_maps(producer)[0].results
    ]
    *batch, n, k = range(kind.rank)
    return read if read == [*batch, k, n] else None
