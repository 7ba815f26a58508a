"""Elementwise operations that read some operand along another loop: squares turned in registers."""

from __future__ import annotations

from mlcflow.graph.kernel import Kernel
from mlcflow.graph.linalg_ops import captured, indexing_maps, payload
from mlcflow.mlir import ir
from mlcflow.pipelines.schedules.border import fill_border
from mlcflow.pipelines.schedules.elementwise import LANE_BITS
from mlcflow.pipelines.schedules.threads import run_in_threads
from mlcflow.schedule.schedule import Schedule
from mlcflow.schedule.vectors import SCALAR_ONLY
from mlcflow.target import Target


def rule(kernel: Kernel, target: Target) -> Schedule | None:
    """Tile the innermost loop and the one that is innermost for an operand, both by a vector.

    Each line of memory that is read or written is then used as a whole. Applies to static
    shapes of vectorizable types where all operands that are read across agree in that loop.
    """
    if kernel.kind != "elementwise" or not kernel.is_static or len(kernel.loops) < 2:
        return None
    if not kernel.element_types <= set(LANE_BITS) or not _computes_in_vectors(kernel):
        return None
    across = _across(kernel)
    if across is None:
        return None
    lanes = target.lanes(max(LANE_BITS[kind] for kind in kernel.element_types))
    sizes = [1] * len(kernel.loops)
    sizes[across] = min(lanes, kernel.loops[across])
    sizes[-1] = min(lanes, kernel.loops[-1])
    if sizes[across] * sizes[-1] < lanes:
        return None
    schedule = Schedule(kernel)
    fill_border(schedule, lanes)
    loops = schedule.tile_and_fuse(schedule.final, sizes, overlap=True)
    run_in_threads(schedule, loops, target)
    schedule.drop_unit_loops()
    schedule.vectorize()
    schedule.hoist()
    return schedule


def _computes_in_vectors(kernel: Kernel) -> bool:
    names = [inner.operation.name for op in kernel.blocks for inner in payload(op)]
    reads = [value for op in kernel.blocks for value in captured(op)]
    return all(
        name.startswith(("arith.", "math.")) and name not in SCALAR_ONLY for name in names
    ) and not any(isinstance(value.type, ir.ShapedType) for value in reads)


def _across(kernel: Kernel) -> int | None:
    """The loop other than the last along which operands are contiguous; ``None`` if not one."""
    found = set()
    for op in kernel.blocks:
        for affine_map in indexing_maps(op):
            if not affine_map.is_projected_permutation:
                return None
            inner = affine_map.results[-1] if len(affine_map.results) else None
            if isinstance(inner, ir.AffineDimExpr) and inner.position != affine_map.n_dims - 1:
                # A column that is broadcast along the last loop is read element by element.
                last = ir.AffineDimExpr.get(affine_map.n_dims - 1, affine_map.context)
                if last in list(affine_map.results):
                    found.add(inner.position)
    return found.pop() if len(found) == 1 else None
