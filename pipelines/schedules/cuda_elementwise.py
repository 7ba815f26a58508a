"""Elementwise operations on a GPU: 16 bytes a thread at once."""

from __future__ import annotations

from mlcflow.graph.kernel import Kernel
from mlcflow.pipelines.schedules.cuda_threads import LANE_BITS, bind_to_grid
from mlcflow.pipelines.schedules.elementwise import reads_vectors
from mlcflow.schedule.schedule import Schedule
from mlcflow.target import Target


def rule(kernel: Kernel, target: Target) -> Schedule | None:
    """A vector of the innermost loop a thread, so that neighbours read what lies side by side.

    Applies to static shapes of vectorizable types whose operands are contiguous along the
    innermost loop, or do not move with it, and whose rows are several vectors long.
    """
    if kernel.kind != "elementwise" or not kernel.is_static or not kernel.loops:
        return None
    if not kernel.element_types <= set(LANE_BITS) or not reads_vectors(kernel):
        return None
    lanes = target.lanes(max(LANE_BITS[t] for t in kernel.element_types))
    if kernel.loops[-1] % lanes or kernel.loops[-1] == lanes:
        return None
    schedule = Schedule(kernel)
    loops = schedule.tile_and_fuse(schedule.final, [1] * (len(kernel.loops) - 1) + [lanes])
    bind_to_grid(schedule, loops)
    schedule.drop_unit_loops()
    if schedule.blocks():  # a plain copy has become slices
        schedule.vectorize()
    return schedule
