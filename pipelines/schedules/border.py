"""The borders of padded tensors, which kernels fill before they compute what is inside."""

from __future__ import annotations

from mlcflow.graph.linalg_ops import is_fill
from mlcflow.mlir import ir, tensor
from mlcflow.pipelines.schedules.tiles import divisor
from mlcflow.schedule.schedule import Schedule


def fill_border(schedule: Schedule, lanes: int) -> None:
    """Tile the fills of a border to a few vectors at a time."""
    for name in schedule.blocks():
        op = schedule.block(name)
        if is_fill(op) and _is_border(op):
            extents = [loop.extent for loop in schedule.loops(name)]
            inner = divisor(extents[-1], 4 * lanes, prefer=lanes)
            schedule.tile(name, [*[1] * (len(extents) - 1), inner])


def _is_border(op: ir.OpView) -> bool:
    return all(isinstance(use.owner.opview, tensor.InsertSliceOp) for use in op.results[0].uses)
