"""Deciding which loops run in threads."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mlcflow.graph.kernel import Kernel, loop_extents, read_kernel
from mlcflow.graph.linalg_ops import payload
from mlcflow.mlir import ir
from mlcflow.schedule.labels import Loop
from mlcflow.schedule.schedule import Schedule
from mlcflow.target import Target

# What takes one thread about 10 µs; to call another one takes 1 to 5 µs.
WORTH_OPERATIONS = 1 << 21
WORTH_BYTES = 1 << 18
PIECES = 8
"""So many pieces a core, so that no core is left with much more than the others."""
_SLOW = ("math.", "arith.div", "arith.rem")


def run_in_threads(schedule: Schedule, loops: Sequence[Loop | str], target: Target) -> None:
    """Mark as many of ``loops``, outermost first, as it takes to keep all cores busy.

    Marks none if the kernel has so little work that another thread would come too late, or
    the target one core. ``loops`` are tile loops as ``tile_and_fuse`` gives them, in the order
    of the nest; the mark stays with a loop that later primitives change. Loops that end up
    each directly inside of the one before run as one; a mark further inside means nothing.
    Threads write to the same places only where tiles overlap, and then the same values.

    In a rule, before the blocks become vectors::

        loops = schedule.tile_and_fuse(schedule.final, sizes)
        run_in_threads(schedule, loops, target)
    """
    kernel = read_kernel(schedule.original)  # its blocks as they were
    if kernel is None or not worth_threads(kernel, target):
        return
    pieces = 1
    for loop in loops:
        current = schedule.loop(loop)
        if current.op is not None and pieces < PIECES * target.cores:
            schedule.parallel(current)
            pieces *= max(1, current.extent)


def worth_threads(kernel: Kernel, target: Target) -> bool:
    """Whether a kernel with static shapes has work for more than one core of the target.

    Its blocks are those before any scheduling.
    """
    if target.cores == 1:
        return False
    return operations(kernel) >= WORTH_OPERATIONS or traffic(kernel) >= WORTH_BYTES


def operations(kernel: Kernel) -> int:
    """Arithmetic operations of a kernel; a division or a function of mathematics counts 16."""
    total = 0
    for block in kernel.blocks:
        names = [op.operation.name for op in payload(block)]
        weight = sum(16 if name.startswith(_SLOW) else 1 for name in names)
        total += weight * abs(math.prod(loop_extents(block)))
    return total


def traffic(kernel: Kernel) -> int:
    """Bytes of everything a kernel takes and gives."""
    return sum(_bytes(kind) for kind in kernel.function.type.inputs)


def _bytes(kind: ir.Type) -> int:
    if not isinstance(kind, ir.ShapedType) or not ir.ShapedType(kind).has_static_shape:
        return 0
    element = ir.ShapedType(kind).element_type
    bits = getattr(element, "width", 64)  # index has none; complex is none of ours
    return math.prod(ir.ShapedType(kind).shape) * max(8, bits) // 8
