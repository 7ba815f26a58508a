"""Primitives that change the loops of a block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mlcflow.errors import ScheduleError
from mlcflow.graph.linalg_ops import loop_kinds
from mlcflow.mlir import ir, loop_transform, structured, transform
from mlcflow.schedule.emit import (
    annotate,
    clean,
    match_block,
    match_loop,
    name_inner,
    name_loop,
)
from mlcflow.schedule.interpret import Handle
from mlcflow.schedule.labels import Loop, find_block, loop_names, loops_of
from mlcflow.schedule.nests import between

if TYPE_CHECKING:
    from mlcflow.schedule.schedule import Schedule


def split(
    schedule: Schedule, loop: Loop, factors: Sequence[int | None], *, peel: bool
) -> list[Loop]:
    """See :meth:`Schedule.split`."""
    if loop.op is not None or loop.is_gone:
        raise ScheduleError(
            f"split: {loop} is around its block already; split a loop before it is moved outside"
        )
    sizes = _inner_sizes(loop, factors, peel)
    names = [f"{loop.name}_{number}" for number in range(len(factors))]
    inner = loop_names(find_block(schedule.function, loop.block))
    position = inner.index(loop.name)
    tiles = [0] * len(inner)

    def build(root: Handle) -> None:
        extent = loop.extent
        for name, size in zip(names, sizes, strict=False):
            if size < extent:
                tiles[position] = size
                tiled = structured.TileUsingForOp(match_block(root, loop.block), sizes=list(tiles))
                name_loop(tiled.loops[0], name, loop.kind)
            extent = size
        inner[position] = names[-1]
        name_inner(match_block(root, loop.block), inner)
        clean(root)

    schedule.apply("split", {"loop": loop, "factors": list(factors), "peel": peel}, build)
    for name, size, extent in zip(names, sizes, [loop.extent, *sizes], strict=False):
        if size >= extent:
            forget(schedule, Loop(loop.block, name, 1, loop.kind))
    if peel and loop.extent % sizes[0]:
        _peel(schedule, loop.block, names[0])
    return [schedule.loop(f"{loop.block}.{name}") for name in names]


def _inner_sizes(loop: Loop, factors: Sequence[int | None], peel: bool) -> list[int]:
    """The tile size that each loop but the last steps by."""
    if list(factors).count(None) != 1 or any(f is not None and f < 1 for f in factors):
        raise ScheduleError(
            f"split: factors of {loop}: expected one None among positive integers, "
            f"got {list(factors)}"
        )
    if loop.extent < 0:
        raise ScheduleError(f"split: the extent of {loop} is not known at compile time")
    given = math.prod(factor for factor in factors if factor is not None)
    if loop.extent % given and not peel:
        raise ScheduleError(
            f"split: {loop} has {loop.extent} iterations, which {given} does not divide; "
            "pad the block, or split with peel=True"
        )
    if loop.extent % given and factors[0] is not None:
        raise ScheduleError(f"split: with peel=True the first factor of {loop} must be None")
    whole = [loop.extent // given if factor is None else factor for factor in factors]
    return [math.prod(whole[number + 1 :]) for number in range(len(whole) - 1)]


def forget(schedule: Schedule, loop: Loop) -> None:
    """Note a loop of one iteration, which is there no more."""
    schedule.gone[str(loop)] = replace(loop, extent=1, op=None, is_gone=True)


def _peel(schedule: Schedule, block: str, name: str) -> None:
    loop = schedule.loop(f"{block}.{name}")

    def build(root: Handle) -> None:
        any_op = transform.AnyOpType.get()
        loop_transform.LoopPeelOp(any_op, any_op, match_loop(root, loop))
        with ir.InsertionPoint(transform.ApplyPatternsOp(root).patterns):
            loop_transform.ApplyForLoopCanonicalizationPatternsOp()
            transform.ApplyCanonicalizationPatternsOp()

    schedule.emit(build)


def reorder(schedule: Schedule, loops: Sequence[Loop]) -> None:
    """See :meth:`Schedule.reorder`."""
    names = {loop.block for loop in loops}
    if len(names) != 1 or len(set(map(str, loops))) != len(loops):
        raise ScheduleError(
            "reorder: expected different loops of one block, got " + ", ".join(map(str, loops))
        )
    block = names.pop()
    given, loops = list(loops), [loop for loop in loops if not loop.is_gone]
    current = [loop.name for loop in schedule.loops(block)]
    wanted = [loop.name for loop in loops]
    _check_reductions(schedule.loops(block), wanted)
    listed = iter(wanted)
    order = [next(listed) if name in wanted else name for name in current]
    schedule.record("reorder", {"loops": given})
    if len(order) < 2:
        return
    _move_outside(schedule, block, order)
    _swap_outer(schedule, block, order)
    _interchange(schedule, block, [name for name in order if _is_inner(schedule, block, name)])


def _check_reductions(loops: list[Loop], wanted: list[str]) -> None:
    """Two reduction loops change the order of the sum when they change places."""
    before = [loop.name for loop in loops if loop.kind == "reduction" and loop.name in wanted]
    after = [name for name in wanted if name in before]
    if before != after:
        raise ScheduleError(
            f"reorder: the reduction loops {', '.join(before)} would change places, which "
            "changes the order of the sum; use rfactor"
        )


def _is_inner(schedule: Schedule, block: str, name: str) -> bool:
    return schedule.loop(f"{block}.{name}").op is None


def _move_outside(schedule: Schedule, block: str, order: list[str]) -> None:
    """Make an ``scf.for`` of each inner loop that is wanted outside of one."""
    outer = [name for name in order if not _is_inner(schedule, block, name)]
    last = order.index(outer[-1]) if outer else -1
    for name in order[: last + 1]:
        if _is_inner(schedule, block, name):
            materialize(schedule, schedule.loop(f"{block}.{name}"))


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
        name_loop(tiled.loops[0], loop.name, loop.kind)
        name_inner(match_block(root, loop.block), inner)
        clean(root)

    if loop.extent == 1:
        forget(schedule, loop)
    else:
        schedule.emit(build)
    return schedule.loop(str(loop))


def _swap_outer(schedule: Schedule, block: str, order: list[str]) -> None:
    """Bring the loops around the block into order, a neighbour at a time."""

    def outer() -> list[Loop]:
        return [loop for loop in loops_of(schedule.function, block) if loop.op is not None]

    rank = {name: number for number, name in enumerate(order)}
    for _ in range(len(order)):
        for first, second in zip(outer(), outer()[1:], strict=False):
            if rank[first.name] > rank[second.name]:
                _perfect(schedule, "reorder", first, second)
                _check_bounds(schedule.loop(str(first)), schedule.loop(str(second)))
                schedule.emit(
                    lambda root, first=first: ir.Operation.create(
                        "schedule.interchange_loops", operands=[match_loop(root, first)]
                    )
                )
                break
        else:
            return


def _perfect(schedule: Schedule, primitive: str, outer: Loop, inner: Loop) -> None:
    """Make ``inner`` all of the body of ``outer``, or raise ``ScheduleError``."""
    found = None if outer.op is None else between(outer.op)
    if found is None or inner.op is None or found.inner != inner.op:
        raise ScheduleError(f"{primitive}: there is other work between {outer} and {inner}")
    if found.insert is not None:

        def build(root: Handle) -> None:
            ir.Operation.create("schedule.perfect_nest", operands=[match_loop(root, outer)])
            clean(root)

        schedule.emit(build)


def _check_bounds(outer: Loop, inner: Loop) -> None:
    assert outer.op is not None and inner.op is not None
    bounds = (inner.op.lowerBound, inner.op.upperBound, inner.op.step)
    if outer.op.induction_variable in bounds:
        raise ScheduleError(f"reorder: the bounds of {inner} depend on {outer}")


def _interchange(schedule: Schedule, block: str, order: list[str]) -> None:
    """Bring the loops inside the block into order."""
    op = find_block(schedule.function, block)
    names = loop_names(op)
    inner = [*(name for name in names if name not in order), *order]
    if inner == names:
        return
    permutation = [names.index(name) for name in inner]
    named = op.operation.name != "linalg.generic"

    def build(root: Handle) -> None:
        if named:
            structured.GeneralizeOp(match_block(root, block))
        structured.InterchangeOp(match_block(root, block), iterator_interchange=permutation)
        name_inner(match_block(root, block), inner)

    schedule.emit(build)


def fuse(schedule: Schedule, outer: Loop, inner: Loop) -> Loop:
    """See :meth:`Schedule.fuse`."""
    loops = schedule.loops(outer.block)
    names = [loop.name for loop in loops]
    if outer.block != inner.block or names.index(inner.name) != names.index(outer.name) + 1:
        raise ScheduleError(f"fuse: {inner} is not the next loop inside {outer}")
    if outer.extent == 1 or inner.extent == 1:
        raise ScheduleError(f"fuse: {outer} or {inner} has one iteration only: nothing to fuse")
    if outer.kind != inner.kind:
        raise ScheduleError(f"fuse: {outer} is {outer.kind}, {inner} is {inner.kind}")
    if names.index(outer.name) and loops[names.index(outer.name) - 1].op is None:
        raise ScheduleError(f"fuse: {outer} is not the outermost loop inside its block")
    schedule.record("fuse", {"outer": outer, "inner": inner})
    for loop in (outer, inner):
        materialize(schedule, schedule.loop(str(loop)))
    first, second = schedule.loop(str(outer)), schedule.loop(str(inner))
    name = f"{outer.name}_{inner.name}"
    _perfect(schedule, "fuse", first, second)
    if first.extent < 0 or second.extent < 0:
        raise ScheduleError(f"fuse: the bounds of {outer} and {inner} are not constant")
    schedule.emit(
        lambda root: ir.Operation.create(
            "schedule.fuse_loops",
            operands=[match_loop(root, first)],
            attributes={"loop_name": ir.StringAttr.get(name)},
        )
    )
    return schedule.loop(f"{outer.block}.{name}")


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
    text = ir.StringAttr.get(value, schedule.function.context)
    if loop.op is not None:
        schedule.emit(lambda root: annotate(match_loop(root, loop), key, text))
    return schedule.loop(str(loop))


def full_sizes(op: ir.OpView, sizes: Sequence[int]) -> list[int]:
    """One size for each loop of ``op``; what is not given is 0. Raises ``ScheduleError``."""
    depth = len(loop_kinds(op))
    if len(sizes) > depth or min(sizes, default=0) < 0:
        raise ScheduleError(
            f"sizes: expected at most {depth}, of 0 or more each, got {list(sizes)}"
        )
    return [*sizes, *[0] * (depth - len(sizes))]
