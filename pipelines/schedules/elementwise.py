"""Elementwise operations: one pass over memory, a vector at a time."""

from __future__ import annotations

from mlcflow.graph.kernel import Kernel
from mlcflow.graph.linalg_ops import captured, indexing_maps, is_elementwise, payload
from mlcflow.mlir import ir
from mlcflow.pipelines.schedules.tiles import divisor
from mlcflow.schedule.schedule import Schedule
from mlcflow.target import Target

# i1 is left out: a vector of i1 is packed bits, a memref of i1 a byte each.
LANE_BITS = {"f32": 32, "f64": 64, "i8": 8, "i16": 16, "i32": 32, "i64": 64}

# Upstream lowers these for scalars only.
SCALAR_ONLY = {"math.fpowi", "math.ipowi"}


def rule(kernel: Kernel, target: Target) -> Schedule | None:
    """Tile the innermost loop by vectors, the others by one.

    Applies to static shapes of vectorizable types whose operands are contiguous along the
    innermost loop, or do not move with it.
    """
    if kernel.kind != "elementwise" or not kernel.is_static or not kernel.loops:
        return None
    if not kernel.element_types <= set(LANE_BITS) or not _is_vectorizable(kernel):
        return None
    lanes = target.lanes(max(LANE_BITS[t] for t in kernel.element_types))
    inner = divisor(kernel.loops[-1], 4 * lanes, prefer=lanes)
    if inner < min(lanes // 2, kernel.loops[-1]):
        return None
    schedule = Schedule(kernel)
    schedule.tile_and_fuse(schedule.final, [1] * (len(kernel.loops) - 1) + [inner])
    return schedule.vectorize().hoist()


def _is_vectorizable(kernel: Kernel) -> bool:
    for op in kernel.blocks:
        if op.operation.name == "linalg.fill":
            continue
        body = payload(op)
        if not is_elementwise(op) or any(isinstance(v.type, ir.ShapedType) for v in captured(op)):
            return False
        names = [inner.operation.name for inner in body]
        if any(not n.startswith(("arith.", "math.")) or n in SCALAR_ONLY for n in names):
            return False
        innermost = ir.AffineExpr.get_dim(len(kernel.loops) - 1)
        for affine_map in indexing_maps(op):
            if not affine_map.is_projected_permutation or innermost in affine_map.results[:-1]:
                return False
    return True
