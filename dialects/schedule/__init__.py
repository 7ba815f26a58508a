"""The ``schedule`` dialect: transform operations that upstream lacks, one a file.

Their operands are transform handles. What must hold before they apply is checked by the
primitives of ``mlcflow.Schedule``, which can name the blocks and loops in their errors.
"""

from __future__ import annotations

from mlcflow.dialects.schedule import (
    cache_panels,
    cache_read,
    cache_write,
    call_library,
    dot_tiles,
    drop_window,
    fill_at,
    fuse_loops,
    interchange_loops,
    name_blocks,
    overlap_tiles,
    perfect_nest,
    reverse_compute_at,
    rolling_update,
    split_loop,
)
from mlcflow.dialects.schedule.dialect import ScheduleDialect

OPERATIONS = (
    cache_panels,
    cache_read,
    cache_write,
    call_library,
    dot_tiles,
    drop_window,
    fill_at,
    fuse_loops,
    interchange_loops,
    name_blocks,
    overlap_tiles,
    perfect_nest,
    reverse_compute_at,
    rolling_update,
    split_loop,
)


def load() -> None:
    """Load the dialect and its operations into the current context."""
    ScheduleDialect.load()
    for operation in OPERATIONS:
        operation.load()
