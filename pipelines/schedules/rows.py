"""Softmax and normalizations: one row after the other, which stays in the cache."""

from __future__ import annotations

from mlcflow.graph.kernel import Kernel, loop_extents
from mlcflow.graph.linalg_ops import is_fill
from mlcflow.pipelines.schedules.elementwise import LANE_BITS, VECTORS, reads_vectors
from mlcflow.pipelines.schedules.threads import run_in_threads
from mlcflow.schedule.schedule import Schedule
from mlcflow.target import Target


def rule(kernel: Kernel, target: Target) -> Schedule | None:
    """All operations on one row, each by vectors, before the next row.

    What is left of a row behind its last whole step is a shorter vector. Applies to static
    shapes.
    """
    types = kernel.element_types
    if kernel.kind != "normalization" or not types <= set(LANE_BITS) or not reads_vectors(kernel):
        return None
    if any(min(loop_extents(op), default=0) < 1 for op in kernel.blocks):
        return None
    rows, columns = kernel.loops[:-1], kernel.loops[-1]
    lanes = target.lanes(max(LANE_BITS[t] for t in types))
    schedule = Schedule(kernel)
    loops = schedule.tile_and_fuse(schedule.final, [1] * len(rows))
    run_in_threads(schedule, loops, target)
    schedule.drop_unit_loops()
    for block in schedule.blocks():
        split_row(schedule, block, columns, VECTORS * lanes)
    schedule.vectorize()
    schedule.hoist()
    return schedule


def split_row(schedule: Schedule, block: str, columns: int, width: int) -> None:
    """Let ``block`` work on ``width`` elements of the row at a time.

    What is left behind the last whole step becomes a block of its own. Reductions go into
    ``width`` accumulators side by side, and these into one.
    """
    loop = schedule.loops(block)[-1]
    if loop.op is not None or loop.extent != columns or columns <= width:
        return
    if is_fill(schedule.block(block)):
        return
    whole = columns // width * width
    if loop.kind == "parallel":
        schedule.split(loop, [None, width], peel=whole < columns)
        return
    if whole < columns:
        schedule.split(loop, [None, whole], peel=True)
        loop = schedule.loops(block)[-1]
    if whole > width:
        schedule.rfactor(loop, width)
