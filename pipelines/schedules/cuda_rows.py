"""Softmax, normalizations and reductions along rows on a GPU: a block of threads a row."""

from __future__ import annotations

import math

from mlcflow.graph.kernel import Kernel, loop_extents
from mlcflow.graph.linalg_ops import is_elementwise, iterators
from mlcflow.pipelines.schedules.cuda_threads import LANE_BITS, join
from mlcflow.pipelines.schedules.elementwise import reads_vectors
from mlcflow.schedule.schedule import Schedule
from mlcflow.target import Target

SHORTEST = 64
"""Elements of a row from which on a block is worth it."""
LONGEST = 32 << 10
"""Bytes of rows of intermediate results that a block keeps in shared memory."""


def rule(kernel: Kernel, target: Target) -> Schedule | None:
    """All operations on one row by the threads of a block, who share its elements.

    What they reduce they exchange by shuffles; rows of intermediate results are shared memory,
    so the row itself is read from the memory of the GPU once. Applies to static shapes.
    """
    types = kernel.element_types
    if kernel.kind not in ("normalization", "reduction") or not types <= set(LANE_BITS):
        return None
    *outer, last = iterators(kernel.root)
    is_along_rows = last == "reduction" and "reduction" not in outer
    if kernel.kind == "reduction" and not (is_along_rows and len(kernel.root.results) == 1):
        return None
    if any(min(loop_extents(op), default=0) < 1 for op in kernel.blocks):
        return None
    rows, columns = kernel.loops[:-1], kernel.loops[-1]
    wide = max(LANE_BITS[kind] for kind in types) // 8
    if columns < SHORTEST or not reads_vectors(kernel) or math.prod(rows) < 2:
        return None
    between = [op for op in kernel.blocks if op != kernel.final and is_elementwise(op)]
    whole = [op for op in between if len(loop_extents(op)) == len(kernel.loops)]
    if len(whole) * columns * wide > LONGEST:
        return None
    schedule = Schedule(kernel)
    loops = schedule.tile_and_fuse(schedule.final, [1] * len(rows))
    schedule.bind(join(schedule, loops), "block.x")
    return schedule
