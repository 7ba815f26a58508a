"""The axes of a GPU that loops are bound to, and what a launch needs to cover them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlcflow.errors import LoweringError
from mlcflow.mlir import ir, scf, walk
from mlcflow.schedule.labels import BIND, INTRINSIC, trip_count

THREADS = 256
"""Threads of a block where a schedule leaves the number open."""

MOST_THREADS = 1024
"""Threads that a block can have, on every chip."""

WARP = 32
"""Threads that run in step."""

LETTERS = "xyz"
GLOBAL = "global.x"
"""Blocks and threads together: one iteration a thread, as many blocks as that takes."""

AXES = (*(f"{level}.{letter}" for level in ("block", "thread") for letter in LETTERS), GLOBAL)


@dataclass(frozen=True)
class Grid:
    """Blocks and threads of a block, along x, y and z."""

    blocks: tuple[int, int, int]
    threads: tuple[int, int, int]


def axis_of(op: ir.OpView) -> str:
    """The axis that a loop is bound to; empty for any other operation."""
    if isinstance(op, scf.ForOp) and BIND in op.attributes:
        return ir.StringAttr(op.attributes[BIND]).value
    return ""


def is_one_block(function: ir.OpView) -> bool:
    """Whether a schedule has bound loops of a function to threads, and none to blocks.

    What it has mapped to a warp's instructions is work of threads, too.
    """
    axes = {axis_of(op) for op in walk(function)} - {""}
    axes |= {"thread.x" for op in walk(function) if INTRINSIC in op.operation.attributes}
    return bool(axes) and all(axis.startswith("thread") for axis in axes)


def grid_of(nest: ir.OpView, shared_work: int) -> Grid:
    """What the loops bound in ``nest`` need, itself included.

    ``shared_work``: iterations of the widest loop that the threads of a block share; they
    get as many threads as it has use for, unless the schedule binds threads. Raises
    ``LoweringError`` for a loop whose extent is not known, and for too many threads.
    """
    extents: dict[str, int] = {}
    for op in [nest, *walk(nest)]:
        axis = axis_of(op)
        if axis:
            extent = trip_count(op)
            if extent < 0:
                raise LoweringError(
                    f"a loop bound to {axis} needs an extent that is known at compile time",
                    op=str(op).split("\n")[0],
                )
            extents[axis] = max(extents.get(axis, 1), extent)
    if GLOBAL in extents:
        width = min(THREADS, rounded(extents[GLOBAL]))
        extents |= {"block.x": -(-extents[GLOBAL] // width), "thread.x": width}
    elif not any(axis.startswith("thread") for axis in extents) and shared_work > 1:
        extents["thread.x"] = min(THREADS, rounded(shared_work))
    blocks, threads = _sizes(extents, "block"), _sizes(extents, "thread")
    if math.prod(threads) > MOST_THREADS:
        raise LoweringError(
            f"a block of {' x '.join(map(str, threads))} threads: expected at most {MOST_THREADS}"
        )
    return Grid(blocks, threads)


def _sizes(extents: dict[str, int], level: str) -> tuple[int, int, int]:
    x, y, z = (extents.get(f"{level}.{letter}", 1) for letter in LETTERS)
    return x, y, z


def rounded(count: int) -> int:
    """``count`` threads as whole warps."""
    return -(-count // WARP) * WARP
