"""What must hold between the statements of a program."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mlcflow.frontends.tensor_program.access import Region, covered, everything, region
from mlcflow.frontends.tensor_program.source import Problem
from mlcflow.frontends.tensor_program.tree import (
    Affine,
    Program,
    Statement,
    loads,
)

Access = tuple[str, tuple[Affine, ...]]


def check_program(program: Program) -> list[Problem]:
    """Elements that are read before they are written, and loops that cannot be separated."""
    return [*_check_written(program), *_check_loops(program.statements)]


def _check_written(program: Program) -> Iterator[Problem]:
    """Every element must be written before it is read, accumulated into or returned."""
    written: dict[str, list[Region]] = {name: [] for name in program.buffers}
    reported = set()

    def is_ready(name: str, wanted: Region) -> bool:
        ready = name not in written or name in reported or covered(wanted, written[name])
        if not ready:
            reported.add(name)
        return ready

    for statement in program.statements:
        shape = program.type_of(statement.target).shape
        target = region(statement.index, statement.extents, shape)
        for load in loads(statement.value):
            load_shape = program.type_of(load.tensor).shape
            if not is_ready(load.tensor, region(load.index, statement.extents, load_shape)):
                yield _problem(statement, f"'{load.tensor}' is read before all of it is written")
        if statement.combine and not is_ready(statement.target, target):
            yield _problem(
                statement,
                f"'{statement.target}' is accumulated into, but has no initial value: expected "
                f"an assignment such as '{statement.target}[...] = 0.0' before, or 'with init():'",
            )
        written[statement.target].append(target)
    for name in program.results:
        if not is_ready(name, everything(program.type_of(name).shape)):
            yield Problem(0, 0, f"'{name}' is returned, but not all of it is written")


def _problem(at: Any, message: str) -> Problem:
    return Problem(at.line, at.column, message)


def _check_loops(statements: tuple[Statement, ...]) -> Iterator[Problem]:
    """Statements in one loop become one loop nest each: the first runs over all iterations
    before the second starts. That must not change what is read."""
    for number, second in enumerate(statements):
        for first in statements[:number]:
            tensor = _entangled(first, second)
            if tensor:
                yield _problem(
                    second,
                    f"'{tensor}' carries a value from one iteration to another statement's "
                    f"(line {first.line}): expected loop nests that can run one after the other; "
                    "write them as separate loops",
                )


def _entangled(first: Statement, second: Statement) -> str:
    """The tensor for which an iteration of ``second`` may come before one of ``first`` that
    touches the same element, one of them writing; or nothing."""
    shared = [
        loop.name
        for loop, other in zip(first.loops, second.loops, strict=False)
        if loop.number == other.number
    ]
    if not shared:
        return ""
    writes_first, writes_second = (first.target, first.index), (second.target, second.index)
    pairs = [(writes_first, access) for access in _reads(second)]
    pairs += [(access, writes_second) for access in _reads(first)]
    if not first.combine or first.combine != second.combine:  # else their order does not matter
        pairs.append((writes_first, writes_second))
    for (tensor, a), (other, b) in pairs:
        if tensor == other and not _in_order(shared, a, b):
            return tensor
    return ""


def _reads(statement: Statement) -> list[Access]:
    return [(load.tensor, load.index) for load in loads(statement.value)]


def _in_order(shared: list[str], a: tuple[Affine, ...], b: tuple[Affine, ...]) -> bool:
    """Whether the iteration at which the first statement touches ``a`` never comes after the
    one at which the second touches the same element as ``b``."""
    for name in shared:
        distance = _distance(name, a, b)
        if distance is None:
            return False
        if distance:
            return distance < 0
    return True


def _distance(name: str, a: tuple[Affine, ...], b: tuple[Affine, ...]) -> int | None:
    """How many iterations of the loop after the second's the first touches the same element;
    ``None`` when that is not one number."""
    for left, right in zip(a, b, strict=True):
        if left.terms != right.terms or name not in dict(left.terms):
            continue
        if left.constant == right.constant:
            return 0  # one of them is written, so that each iteration has its own element
        if len(left.terms) == 1:
            step, shift = left.terms[0][1], right.constant - left.constant
            if shift % step == 0:
                return shift // step
            return -1  # never the same element
    return None
