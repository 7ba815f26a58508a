"""Primitives that change the order of the loops of a block, or make one of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlcflow.errors import ScheduleError
from mlcflow.mlir import ir, structured
from mlcflow.schedule.emit import clean, match_block, match_loop, name_inner
from mlcflow.schedule.interpret import Handle
from mlcflow.schedule.labels import Loop, find_block, loop_names, loops_of
from mlcflow.schedule.loops import materialize
from mlcflow.schedule.nests import between

if TYPE_CHECKING:
    from mlcflow.schedule.schedule import Schedule


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
    _check_reductions("reorder", schedule.loops(block), wanted)
    listed = iter(wanted)
    order = [next(listed) if name in wanted else name for name in current]
    schedule.record("reorder", {"loops": given})
    if len(order) < 2:
        return
    _move_outside(schedule, block, order)
    _swap_outer(schedule, block, order)
    _interchange(schedule, block, [name for name in order if _is_inner(schedule, block, name)])


def _check_reductions(primitive: str, loops: list[Loop], wanted: list[str]) -> None:
    """Two reduction loops change the order of the sum when they change places."""
    before = [loop.name for loop in loops if loop.kind == "reduction" and loop.name in wanted]
    after = [name for name in wanted if name in before]
    if before != after:
        raise ScheduleError(
            f"{primitive}: the reduction loops {', '.join(before)} would change places, which "
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


def _swap_outer(schedule: Schedule, block: str, order: list[str]) -> None:
    """Bring the loops around the block into order, a neighbour at a time."""

    def outer() -> list[Loop]:
        return [loop for loop in loops_of(schedule.function, block) if loop.op is not None]

    rank = {name: number for number, name in enumerate(order)}
    for _ in range(len(order)):
        for first, second in zip(outer(), outer()[1:], strict=False):
            if rank[first.name] > rank[second.name]:
                perfect(schedule, "reorder", first, second)
                _check_bounds(schedule.loop(str(first)), schedule.loop(str(second)))
                _swap(schedule, first)
                break
        else:
            return


def _swap(schedule: Schedule, outer: Loop) -> None:
    def build(root: Handle) -> None:
        ir.Operation.create("schedule.interchange_loops", operands=[match_loop(root, outer)])

    schedule.emit(build)


def perfect(schedule: Schedule, primitive: str, outer: Loop, inner: Loop) -> None:
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


def interchange(schedule: Schedule, block: str, permutation: Sequence[int]) -> None:
    """See :meth:`Schedule.interchange`."""
    names = loop_names(schedule.block(block))
    if sorted(permutation) != list(range(len(names))):
        raise ScheduleError(
            f"interchange: expected each of the {len(names)} loops inside '{block}' "
            f"({', '.join(names)}) by number once, got {list(permutation)}"
        )
    wanted = [names[number] for number in permutation]
    _check_reductions("interchange", schedule.loops(block), wanted)
    schedule.record("interchange", {"block": block, "permutation": list(permutation)})
    _interchange(schedule, block, wanted)


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
    perfect(schedule, "fuse", first, second)
    if first.extent < 0 or second.extent < 0:
        raise ScheduleError(f"fuse: the bounds of {outer} and {inner} are not constant")

    def build(root: Handle) -> None:
        ir.Operation.create(
            "schedule.fuse_loops",
            operands=[match_loop(root, first)],
            attributes={"loop_name": ir.StringAttr.get(name)},
        )
        clean(root)  # what is constant comes between no loops

    schedule.emit(build)
    return schedule.loop(f"{outer.block}.{name}")
