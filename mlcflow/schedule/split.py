"""Splitting and peeling loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlcflow.errors import ScheduleError
from mlcflow.mlir import ir, loop_transform, structured, transform
from mlcflow.schedule import labels
from mlcflow.schedule.emit import annotate, clean, match_block, match_loop, name_inner, name_loop
from mlcflow.schedule.interpret import Handle
from mlcflow.schedule.labels import OF, Loop, find_block, loop_names
from mlcflow.schedule.loops import forget

if TYPE_CHECKING:
    from mlcflow.schedule.schedule import Schedule


def split(
    schedule: Schedule, loop: Loop, factors: Sequence[int | None], *, peel: bool
) -> list[Loop]:
    """See :meth:`Schedule.split`."""
    if loop.is_gone:
        raise ScheduleError(f"split: {loop} has one iteration only: nothing to split")
    sizes = _inner_sizes(loop, factors, peel)
    names = free_names(schedule, loop, len(factors))
    schedule.record("split", {"loop": loop, "factors": list(factors), "peel": peel})
    if loop.op is None:
        _split_inside(schedule, loop, sizes, names)
    else:
        _split_around(schedule, loop, sizes, names)
    if peel and loop.extent % sizes[0]:
        _peel_rest(schedule, schedule.loop(f"{loop.block}.{names[0]}"))
        if loop.extent // sizes[0] == 1:  # one whole iteration, for which no loop is left
            forget(schedule, Loop(loop.block, names[0], 1, loop.kind))
    return [schedule.loop(f"{loop.block}.{name}") for name in names]


def free_names(schedule: Schedule, loop: Loop, count: int) -> list[str]:
    """``i_0``, ``i_1``... or, where the block is in loops of such names already, ``i_1``..."""
    taken = {each.name for each in schedule.loops(loop.block)}
    taken |= {gone.name for gone in schedule.gone.values() if gone.block == loop.block}
    first = 0
    while taken & {f"{loop.name}_{first + number}" for number in range(count)}:
        first += 1
    return [f"{loop.name}_{first + number}" for number in range(count)]


def _split_inside(schedule: Schedule, loop: Loop, sizes: list[int], names: list[str]) -> None:
    """Make loops around the block of all but the last part of a loop inside it."""
    inner = loop_names(find_block(schedule.function, loop.block))
    position = inner.index(loop.name)
    tiles = [0] * len(inner)

    def build(root: Handle) -> None:
        extent = loop.extent
        for name, size in zip(names, sizes, strict=False):
            if size < extent:
                tiles[position] = size
                tiled = structured.TileUsingForOp(match_block(root, loop.block), sizes=list(tiles))
                name_loop(tiled.loops[0], loop.block, name, loop.kind)
            extent = size
        inner[position] = names[-1]
        name_inner(match_block(root, loop.block), inner)
        clean(root)

    schedule.emit(build)
    for name, size, extent in zip(names, sizes, [loop.extent, *sizes], strict=False):
        if size >= extent:
            forget(schedule, Loop(loop.block, name, 1, loop.kind))


def _split_around(schedule: Schedule, loop: Loop, sizes: list[int], names: list[str]) -> None:
    """Make several ``scf.for`` of one."""
    extents = [
        outer // inner for outer, inner in zip([loop.extent, *sizes], [*sizes, 1], strict=True)
    ]
    made = {name: extent for name, extent in zip(names, extents, strict=True) if extent > 1}

    def build(root: Handle) -> None:
        i64 = ir.IntegerType.get_signless(64)
        ir.Operation.create(
            "schedule.split_loop",
            operands=[match_loop(root, loop)],
            attributes={
                "factors": ir.ArrayAttr.get([ir.IntegerAttr.get(i64, n) for n in made.values()]),
                "loop_names": ir.ArrayAttr.get([ir.StringAttr.get(name) for name in made]),
            },
        )
        clean(root)

    schedule.emit(build)
    for name, extent in zip(names, extents, strict=True):
        if extent == 1:
            forget(schedule, Loop(loop.block, name, 1, loop.kind))


def _inner_sizes(loop: Loop, factors: Sequence[int | None], peel: bool) -> list[int]:
    """The tile size that each loop but the last steps by."""
    if list(factors).count(None) != 1 or any(f is not None and f < 1 for f in factors):
        raise ScheduleError(
            f"split: factors of {loop}: expected one None among positive integers, "
            f"got {list(factors)}"
        )
    if loop.extent < 1:
        raise ScheduleError(f"split: the extent of {loop} is not known at compile time")
    given = math.prod(factor for factor in factors if factor is not None)
    if given > loop.extent:
        raise ScheduleError(f"split: {loop} has {loop.extent} iterations, fewer than {given}")
    if loop.extent % given:
        _check_peel(loop, factors, given, peel)
    whole = [loop.extent // given if factor is None else factor for factor in factors]
    return [math.prod(whole[number + 1 :]) for number in range(len(whole) - 1)]


def _check_peel(loop: Loop, factors: Sequence[int | None], given: int, peel: bool) -> None:
    if not peel:
        raise ScheduleError(
            f"split: {loop} has {loop.extent} iterations, which {given} does not divide; "
            "pad the block, or split with peel=True"
        )
    if factors[0] is not None:
        raise ScheduleError(f"split: with peel=True the first factor of {loop} must be None")
    if loop.op is not None:
        raise ScheduleError(
            f"split: {loop} is around its block already, which {given} must divide; "
            "split with peel=True before the loop is moved outside"
        )


def _peel_rest(schedule: Schedule, loop: Loop) -> None:
    """Set apart the last iteration, which does less than the others."""

    def build(root: Handle) -> None:
        any_op = transform.AnyOpType.get()
        loop_transform.LoopPeelOp(any_op, any_op, _as_for(match_loop(root, loop)))
        with ir.InsertionPoint(transform.ApplyPatternsOp(root).patterns):
            loop_transform.ApplyForLoopCanonicalizationPatternsOp()
            transform.ApplyCanonicalizationPatternsOp()

    schedule.emit(build)


def peel(schedule: Schedule, loop: Loop) -> Loop:
    """See :meth:`Schedule.peel`."""
    if loop.op is None or loop.extent < 2:
        raise ScheduleError(
            f"peel: expected a loop of at least 2 iterations around its block, "
            f"got {loop} of {loop.extent} {'inside' if loop.op is None else 'around'} it; "
            "split it first"
        )
    taken = schedule.blocks()
    blocks = [name for name in taken if _is_in(schedule, name, loop)]
    apart = {name: labels.free(f"{name}_first", "x", taken) for name in blocks}
    inside = {
        str(each): each for name in blocks for each in schedule.loops(name) if each.op is not None
    }

    def build(root: Handle) -> None:
        any_op = transform.AnyOpType.get()
        peeled = _as_for(match_loop(root, loop))
        first = loop_transform.LoopPeelOp(any_op, any_op, peeled, peel_front=True)
        once = first.results[1]
        for each in {(other.of, other.name): other for other in inside.values()}.values():
            name = ir.StringAttr.get(f"{each.of}_first")
            annotate(match_loop(once, each), OF, name)
        for old, new in apart.items():
            annotate(match_block(once, old), labels.BLOCK, ir.StringAttr.get(new))
        clean(root)

    schedule.apply("peel", {"loop": loop}, build)
    if loop.extent == 2:  # one iteration is left, for which there is no loop
        for block in blocks:
            forget(schedule, Loop(block, loop.name, 1, loop.kind))
    return schedule.loop(str(loop))


def _as_for(handle: Handle) -> Handle:
    return transform.CastOp(transform.OperationType.get("scf.for"), handle).result


def _is_in(schedule: Schedule, block: str, loop: Loop) -> bool:
    return any(each.op == loop.op for each in schedule.loops(block) if each.op is not None)
