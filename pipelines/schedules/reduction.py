"""Reductions along rows: a vector of accumulators, then one."""

from __future__ import annotations

from mlcflow.graph.kernel import Kernel
from mlcflow.graph.linalg_ops import combines_inputs, inputs, iterators
from mlcflow.pipelines.schedules.elementwise import LANE_BITS, VECTORS, reads_vectors
from mlcflow.pipelines.schedules.rows import split_row
from mlcflow.pipelines.schedules.threads import run_in_threads
from mlcflow.schedule.schedule import Schedule
from mlcflow.target import Target


def rule(kernel: Kernel, target: Target) -> Schedule | None:
    """Reduce the innermost loop by vectors, one row at a time, with its epilogue.

    Applies to static shapes whose only reduction loop is the innermost, with one result and
    rows of at least half a vector.
    """
    if kernel.kind != "reduction" or not kernel.is_static:
        return None
    *outer, kind = iterators(kernel.root)
    if kind != "reduction" or "reduction" in outer or len(kernel.root.results) != 1:
        return None
    if not combines_inputs(kernel.root):
        return None
    if not kernel.element_types <= set(LANE_BITS) or not reads_vectors(kernel):
        return None
    lanes = target.lanes(max(LANE_BITS[t] for t in kernel.element_types))
    columns = kernel.loops[-1]
    if columns < lanes // 2 or len(inputs(kernel.root)) == 0:
        return None
    schedule = Schedule(kernel)
    if outer:
        loops = schedule.tile_and_fuse(schedule.final, [1] * len(outer))
        run_in_threads(schedule, loops, target)
    schedule.drop_unit_loops()
    split_row(schedule, "root", columns, VECTORS * lanes)
    schedule.vectorize()
    schedule.hoist()
    return schedule
