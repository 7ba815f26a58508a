"""Primitives that change the loops of a block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mlcflow.errors import ScheduleError, unknown_name
from mlcflow.graph.linalg_ops import loop_kinds
from mlcflow.mlir import ir, loop_transform, structured
from mlcflow.schedule.emit import (
    annotate,
    clean,
    match_block,
    match_loop,
    name_inner,
    name_loop,
)
from mlcflow.schedule.interpret import Handle
from mlcflow.schedule.labels import BIND, Loop, find_block, loop_names

if TYPE_CHECKING:
    from mlcflow.schedule.schedule import Schedule


def forget(schedule: Schedule, loop: Loop) -> None:
    """Note a loop of one iteration, which is there no more."""
    schedule.gone[str(loop)] = replace(loop, extent=1, op=None, is_gone=True)


def materialize(schedule: Schedule, loop: Loop) -> Loop:
    """Turn a loop inside a block into an ``scf.for`` around it."""
    if loop.is_gone or loop.op is not None:
        return loop
    inner = loop_names(find_block(schedule.function, loop.block))
    position = inner.index(loop.name)
    sizes = [int(number == position) for number in range(len(inner))]
    inner[position] = f"{loop.name}_unit"

    def build(root: Handle) -> None:
        tiled = structured.TileUsingForOp(match_block(root, loop.block), sizes=sizes)
        name_loop(tiled.loops[0], loop.block, loop.name, loop.kind)
        name_inner(match_block(root, loop.block), inner)
        clean(root)

    if loop.extent == 1:
        forget(schedule, loop)
    else:
        schedule.emit(build)
    return schedule.loop(str(loop))


def unroll(schedule: Schedule, loop: Loop, factor: int | None) -> None:
    """See :meth:`Schedule.unroll`."""
    if loop.extent < 1:
        raise ScheduleError(f"unroll: the extent of {loop} is not known at compile time")
    factor = factor or loop.extent
    if factor < 1 or loop.extent % factor:
        raise ScheduleError(
            f"unroll: {loop} has {loop.extent} iterations, which {factor} does not divide"
        )
    schedule.record("unroll", {"loop": loop, "factor": factor})
    loop = materialize(schedule, loop)

    def build(root: Handle) -> None:
        loop_transform.LoopUnrollOp(match_loop(root, loop), factor=factor)

    if factor > 1 and loop.op is not None:
        schedule.emit(build)


def mark(schedule: Schedule, primitive: str, loop: Loop, key: str, value: str) -> Loop:
    """Mark a loop for a later stage: ``parallel``, ``bind``."""
    if loop.kind != "parallel":
        raise ScheduleError(
            f"{primitive}: {loop} is a reduction: its iterations depend on each other"
        )
    arguments = {"loop": loop} if primitive == "parallel" else {"loop": loop, "to": value}
    schedule.record(primitive, arguments)
    loop = materialize(schedule, loop)
    if loop.op is not None:
        schedule.emit(lambda root: annotate(match_loop(root, loop), key, ir.StringAttr.get(value)))
    return schedule.loop(str(loop))


def bind(schedule: Schedule, loop: Loop, to: str) -> Loop:
    """See :meth:`Schedule.bind`."""
    axes = [f"{level}.{axis}" for level in ("block", "warp", "thread") for axis in "xyz"]
    if to not in axes:
        raise ScheduleError(unknown_name("axis", to, axes))
    for other in schedule.loops(loop.block):
        if other.op is not None and other.name != loop.name and BIND in other.op.attributes:
            taken = ir.StringAttr(other.op.attributes[BIND]).value
            if taken == to:
                raise ScheduleError(f"bind: {other} is bound to {to} already")
    return mark(schedule, "bind", loop, BIND, to)


def tile(schedule: Schedule, block: str, sizes: Sequence[int]) -> list[Loop]:
    """See :meth:`Schedule.tile`."""
    op = schedule.block(block)
    names = loop_names(op)
    made = []
    for name, size in zip(names, full_sizes(op, sizes), strict=True):
        if size:
            made.append(schedule.split(f"{block}.{name}", [None, size])[0])
    return [schedule.loop(loop) for loop in made]


def full_sizes(op: ir.OpView, sizes: Sequence[int]) -> list[int]:
    """One size for each loop of ``op``; what is not given is 0. Raises ``ScheduleError``."""
    depth = len(loop_kinds(op))
    if len(sizes) > depth or min(sizes, default=0) < 0:
        raise ScheduleError(
            f"sizes: expected at most {depth}, of 0 or more each, got {list(sizes)}"
        )
    return [*sizes, *[0] * (depth - len(sizes))]
