"""Elementwise operations: one pass over memory, a vector at a time."""

from __future__ import annotations

from mlcflow.graph.kernel import Kernel
from mlcflow.graph.linalg_ops import captured, indexing_maps, payload
from mlcflow.mlir import ir
from mlcflow.pipelines.schedules.threads import run_in_threads
from mlcflow.pipelines.schedules.tiles import divisor
from mlcflow.schedule.schedule import Schedule
from mlcflow.schedule.vectors import SCALAR_ONLY
from mlcflow.target import Target

VECTORS = 4
"""Vectors computed at once: as many results under way hide the latency of an operation."""

# i1 is left out: a vector of i1 is packed bits, a memref of i1 a byte each.
LANE_BITS = {"f32": 32, "f64": 64, "i8": 8, "i16": 16, "i32": 32, "i64": 64}


def rule(kernel: Kernel, target: Target) -> Schedule | None:
    """Tile the innermost loop by vectors, the others by one.

    Applies to static shapes of vectorizable types whose operands are contiguous along the
    innermost loop, or do not move with it.
    """
    if kernel.kind != "elementwise" or not kernel.is_static or not kernel.loops:
        return None
    if not kernel.element_types <= set(LANE_BITS) or not reads_vectors(kernel):
        return None
    lanes = target.lanes(max(LANE_BITS[t] for t in kernel.element_types))
    columns = kernel.loops[-1]
    inner = divisor(columns, VECTORS * lanes, prefer=lanes)
    overlap = inner % lanes > 0 and columns > lanes and not _reads_destination(kernel)
    if overlap:  # whole vectors; the last begins before the one before it ends
        inner = lanes * min(VECTORS, columns // lanes)
    if inner < min(lanes // 2, columns):
        return None
    schedule = Schedule(kernel)
    sizes = [1] * (len(kernel.loops) - 1) + [inner]
    loops = schedule.tile_and_fuse(schedule.final, sizes, overlap=overlap)
    run_in_threads(schedule, loops, target)
    schedule.drop_unit_loops()
    if schedule.blocks():  # a plain copy has become slices
        schedule.vectorize()
    schedule.hoist()
    return schedule


def _reads_destination(kernel: Kernel) -> bool:
    """Whether an element is computed from what its place held before."""
    final = kernel.final.operation.regions[0].blocks[0]
    places = list(final.arguments)[-len(kernel.final.results) :]
    return any(list(place.uses) for place in places)


def reads_vectors(kernel: Kernel) -> bool:
    """Whether every block reads and computes in a way that vectors can follow."""
    for op in kernel.blocks:
        if op.operation.name == "linalg.fill":
            continue
        if any(isinstance(value.type, ir.ShapedType) for value in captured(op)):
            return False
        names = [inner.operation.name for inner in payload(op)]
        if any(not n.startswith(("arith.", "math.")) or n in SCALAR_ONLY for n in names):
            return False
        if not all(_is_contiguous(affine_map) for affine_map in indexing_maps(op)):
            return False
    return True


def _is_contiguous(affine_map: ir.AffineMap) -> bool:
    """Whether the innermost loop moves along the last dimension, or not at all.

    Other dimensions follow one loop each or stay at 0, as in a broadcast.
    """
    results = list(affine_map.results)
    dims = [e for e in results if isinstance(e, ir.AffineDimExpr)]
    zero = ir.AffineConstantExpr.get(0, affine_map.context)
    innermost = ir.AffineDimExpr.get(affine_map.n_dims - 1, affine_map.context)
    return (
        all(e in dims or e == zero for e in results)
        and len({e.position for e in dims}) == len(dims)
        and innermost not in results[:-1]
    )
