"""Matrix products: a tile of the result stays in registers over the whole reduction."""

from __future__ import annotations

from mlcflow.graph.kernel import Kernel
from mlcflow.graph.linalg_ops import indexing_maps
from mlcflow.mlir import ir
from mlcflow.pipelines.schedules.tiles import divisor, row_tile
from mlcflow.schedule.schedule import Schedule
from mlcflow.target import Target

LANE_BITS = {"f32": 32, "f64": 64}
REUSES = 8  # a panel of B is copied if at least so many tiles of rows read it
REDUCTION_TILE = 4  # measured: 8 spills, 2 reloads the rows of A too often


def rule(kernel: Kernel, target: Target) -> Schedule | None:
    """``C[b, m, n] += A[b, m, k] * B[b, k, n]`` with its epilogue; no ``b`` for one matrix.

    ``mi`` rows by two vector registers of the result are accumulated as outer products of a
    column of A and a row of B. The epilogue works on the accumulators before the only store.
    Applies to static shapes of one floating-point type whose last dimension is contiguous.
    """
    if kernel.kind != "contraction" or not kernel.is_static or not _is_row_major(kernel.root):
        return None
    types = kernel.element_types
    if len(types) != 1 or not types <= set(LANE_BITS):
        return None
    *batch, m, n, k = kernel.loops
    lanes = target.lanes(LANE_BITS[types.pop()])
    ni = row_tile(n, lanes)
    if ni < min(n, lanes // 2):
        return None
    accumulators = target.vector_registers - 4  # the others hold a row of B and a broadcast of A
    mi = divisor(m, max(1, accumulators // max(1, -(-ni // lanes))))
    ki = divisor(k, REDUCTION_TILE)
    schedule = Schedule(kernel)
    # A panel of B stays in cache while all rows of A pass by: columns outside, rows inside.
    outer = list(range(len(batch)))
    schedule.tile_and_fuse(
        schedule.final, [1] * len(outer) + [mi, ni], order=[*outer, len(outer) + 1, len(outer)]
    )
    panel = None
    if m // mi >= REUSES and n > ni:
        # Rows of B lie a whole row of the matrix apart: copied next to each other, a panel
        # takes few pages and cache sets. The copy does not move with the rows of A.
        panel = schedule.cache_read("root", 1)
        schedule.hoist()
    schedule.split(schedule.loops("root")[-1], [None, ki])
    if panel:
        schedule.split(schedule.loops(panel)[-2], [None, ki])
    if batch:
        schedule.drop_unit_loops()
    schedule.vectorize()
    schedule.hoist()
    return schedule


def _is_row_major(root: ir.OpView) -> bool:
    """Whether the operands are A[.., m, k], B[.., k, n] and C[.., m, n], loops in that order."""
    maps = indexing_maps(root)
    if len(maps) != 3 or maps[0].n_dims not in (3, 4):
        return False
    *batch, m, n, k = (ir.AffineExpr.get_dim(i) for i in range(maps[0].n_dims))
    expected = ([*batch, m, k], [*batch, k, n], [*batch, m, n])
    return all(list(got.results) == want for got, want in zip(maps, expected, strict=True))
