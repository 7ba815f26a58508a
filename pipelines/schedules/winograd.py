"""Transforms of tiles, as of Winograd's filtering: all of a tile from one set of registers."""

from __future__ import annotations

from mlcflow.graph.choices import loops_that_choose
from mlcflow.graph.kernel import Kernel
from mlcflow.pipelines.schedules.elementwise import LANE_BITS
from mlcflow.pipelines.schedules.threads import run_in_threads
from mlcflow.schedule.schedule import Schedule
from mlcflow.target import Target


def rule(kernel: Kernel, target: Target) -> Schedule | None:
    """Write out the loops whose position says what to compute, a vector of channels at a time.

    What is written out has no choices left, and reads each element and computes each sum that
    several results need once. Applies to one elementwise operation of static shape.
    """
    types = kernel.element_types
    if kernel.kind != "elementwise" or not kernel.is_static or not types <= set(LANE_BITS):
        return None
    chosen, last = loops_that_choose(kernel.root, kernel.loops), len(kernel.loops) - 1
    if not chosen or last in chosen or kernel.blocks != (kernel.root,):
        return None
    lanes = min(target.lanes(max(LANE_BITS[each] for each in types)), kernel.loops[last])
    schedule = Schedule(kernel)
    sizes = [extent if n in chosen else 1 for n, extent in enumerate(kernel.loops[:last])]
    loops = schedule.tile_and_fuse("root", [*sizes, lanes], overlap=True)
    run_in_threads(schedule, [loop for n, loop in enumerate(loops) if n not in chosen], target)
    for loop in reversed(schedule.tile("root", [int(n in chosen) for n in range(last)])):
        schedule.unroll(loop)
    schedule.drop_unit_loops()
    schedule.vectorize()
    schedule.hoist()
    return schedule
