"""Convolutions: a matrix product for each position of the window."""

from __future__ import annotations

from mlcflow.graph.kernel import Kernel
from mlcflow.graph.linalg_ops import indexing_maps
from mlcflow.mlir import ir
from mlcflow.pipelines.schedules.contraction import LANE_BITS, REDUCTION_TILE
from mlcflow.pipelines.schedules.tiles import divisor, row_tile
from mlcflow.schedule.schedule import Schedule
from mlcflow.target import Target


def rule(kernel: Kernel, target: Target) -> Schedule | None:
    """``R[n, f, y, x] += W[r, s, f, c] * I[n, c, y + r, x + s]`` with its epilogue.

    ``mi`` channels by up to two vectors of pixels of one row stay in registers over all of the
    window and all input channels. Applies to the form that ``lay_out_convolutions`` gives,
    with steps of 1 along the row, which keep pixels contiguous.
    """
    if not kernel.is_static or not _has_form(kernel.root):
        return None
    types = kernel.element_types
    if len(types) != 1 or not types <= set(LANE_BITS):
        return None
    *batch, f, _, x, _, _, c = kernel.loops
    lanes = target.lanes(LANE_BITS[types.pop()])
    xi = row_tile(x, lanes)
    if xi < min(x, lanes // 4):
        return None
    mi = divisor(f, max(1, (target.vector_registers - 4) // -(-xi // lanes)))
    schedule = Schedule(kernel)
    schedule.tile_and_fuse(schedule.final, [*[1 for _ in batch], mi, 1, xi])
    r, s, k = schedule.loops("root")[-3:]
    schedule.split(r, [None, 1])
    schedule.split(s, [None, 1])
    schedule.split(k, [None, divisor(c, REDUCTION_TILE)])
    schedule.drop_unit_loops()
    schedule.vectorize()
    schedule.hoist()
    return schedule


def _has_form(root: ir.OpView) -> bool:
    maps = indexing_maps(root)
    if len(maps) != 3 or maps[0].n_dims not in (6, 7):
        return False
    *n, f, y, x, r, s, c = (ir.AffineExpr.get_dim(i) for i in range(maps[0].n_dims))
    weights, image, result = (list(m.results) for m in maps)
    return (
        weights == [r, s, f, c]
        and result == [*n, f, y, x]
        and image[:-2] == [*n, c]
        and image[-1] in (x + s, s + x)
    )
