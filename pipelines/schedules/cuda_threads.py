"""What the schedule rules for GPUs share."""

from __future__ import annotations

from collections.abc import Sequence

from mlcflow.errors import ScheduleError
from mlcflow.schedule.labels import Loop
from mlcflow.schedule.schedule import Schedule

LANE_BITS = {"f16": 16, "bf16": 16, "f32": 32, "f64": 64, "i8": 8, "i16": 16, "i32": 32, "i64": 64}
"""Bits of the types that a thread loads in vectors; booleans in memory are bytes."""


def bind_to_grid(schedule: Schedule, loops: Sequence[Loop]) -> None:
    """Make one loop of nested ones, the last fastest, and bind it to all threads of the grid.

    Loops that cannot be joined with those around them run within a thread.
    """
    schedule.bind(join(schedule, loops), "global.x")


def join(schedule: Schedule, loops: Sequence[Loop]) -> Loop:
    """One loop of nested ones, as many as can be joined with the outermost.

    The innermost first: what tells the places in joined loops would come between others.
    """
    *outer, joined = [loop for loop in loops if not loop.is_gone]
    for loop in reversed(outer):
        try:
            joined = schedule.fuse(loop, joined)
        except ScheduleError:
            joined = loop
    return joined
