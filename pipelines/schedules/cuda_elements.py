"""Any kernel on a GPU: a thread for each element of its result."""

from __future__ import annotations

from mlcflow.errors import ScheduleError
from mlcflow.graph.kernel import Kernel
from mlcflow.graph.linalg_ops import loop_kinds
from mlcflow.pipelines.schedules.cuda_threads import bind_to_grid
from mlcflow.schedule.schedule import Schedule
from mlcflow.target import Target


def rule(kernel: Kernel, target: Target) -> Schedule | None:
    """Compute each element by itself, with all that it needs, in a thread of its own.

    Neighbours in the last dimension are neighbours among the threads, whose accesses the
    hardware then joins. Applies to static shapes; a reduction runs within a thread.
    """
    if 0 in kernel.loops:
        return None
    schedule = Schedule(kernel)
    final = schedule.block(schedule.final)
    extents = [loop.extent for loop in schedule.loops(schedule.final)]
    parallel = [n for n, kind in enumerate(loop_kinds(final)) if kind == "parallel"]
    if min(extents, default=0) < 1 or not any(extents[n] > 1 for n in parallel):
        return None
    sizes = [int(number in parallel) for number in range(len(extents))]
    try:
        loops = schedule.tile_and_fuse(schedule.final, sizes)
    except ScheduleError:  # nothing has changed
        return None
    bind_to_grid(schedule, loops)
    return schedule
