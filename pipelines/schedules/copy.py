"""Copies, such as those into the middle of a padded tensor."""

from __future__ import annotations

from mlcflow.graph.kernel import Kernel
from mlcflow.graph.linalg_ops import is_fill
from mlcflow.pipelines.schedules.border import fill_border
from mlcflow.pipelines.schedules.elementwise import LANE_BITS
from mlcflow.pipelines.schedules.threads import run_in_threads
from mlcflow.schedule.schedule import Schedule
from mlcflow.target import Target

VECTORS = 4  # copied by one iteration


def rule(kernel: Kernel, target: Target) -> Schedule | None:
    """Copy some vectors of a row at a time. Applies to ``linalg.copy`` of static shape."""
    others = [op for op in kernel.blocks if op != kernel.root]
    if kernel.root.operation.name != "linalg.copy" or not all(is_fill(op) for op in others):
        return None
    types = kernel.element_types
    if not kernel.is_static or not kernel.loops or len(types) != 1 or not types <= set(LANE_BITS):
        return None
    lanes = target.lanes(LANE_BITS[types.pop()])
    schedule = Schedule(kernel)
    fill_border(schedule, lanes)
    sizes = [*[1] * (len(kernel.loops) - 1), min(kernel.loops[-1], VECTORS * lanes)]
    loops = schedule.tile_and_fuse("root", sizes, overlap=True)
    run_in_threads(schedule, loops, target)
    schedule.drop_unit_loops()
    if schedule.blocks():  # a copy of slices may have folded away
        schedule.vectorize()
    schedule.hoist()
    return schedule
