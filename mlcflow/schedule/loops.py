"""Primitives that change the loops of a block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mlcflow.errors import ScheduleError, unknown_name
from mlcflow.gpu.axes import AXES, GLOBAL, MOST_THREADS
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
    if to not in AXES:
        raise ScheduleError(unknown_name("axis", to, AXES))
    if loop.extent < 1:
        raise ScheduleError(f"bind: the extent of {loop} is not known at compile time")
    around, threads = True, loop.extent if to.startswith("thread") else 1
    for other in schedule.loops(loop.block):
        if other.name == loop.name:
            around = False
        elif other.op is not None and BIND in other.op.attributes:
            taken = ir.StringAttr(other.op.attributes[BIND]).value
            _check_axes(loop, to, other, taken, other_is_around=around)
            threads *= other.extent if taken.startswith("thread") else 1
    if threads > MOST_THREADS:
        raise ScheduleError(
            f"bind: a block would have {threads} threads; it can have at most {MOST_THREADS}"
        )
    return mark(schedule, "bind", loop, BIND, to)


def _check_axes(loop: Loop, to: str, other: Loop, taken: str, *, other_is_around: bool) -> None:
    """Raise where two bound loops of a nest do not go together."""
    if taken == to:
        raise ScheduleError(f"bind: {other} is bound to {to} already")
    if GLOBAL in (taken, to):
        raise ScheduleError(
            f"bind: {GLOBAL} takes all blocks and threads, and {other} is bound to {taken}"
        )
    outer, inner = (taken, to) if other_is_around else (to, taken)
    if outer.startswith("thread") and inner.startswith("block"):
        raise ScheduleError(f"bind: {loop} and {other}: threads are inside of blocks")


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
