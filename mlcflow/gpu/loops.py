"""Taking loops apart: one iteration, for the thread that does it."""

from __future__ import annotations

from collections.abc import Sequence

from mlcflow.mlir import arith, ir, scf
from mlcflow.schedule.labels import constant


def constant_index(value: int) -> ir.Value:
    """A constant of type ``index`` at the insertion point."""
    return arith.constant(ir.IndexType.get(), value)


def product(values: Sequence[ir.Value]) -> ir.Value:
    """The product of index values."""
    total = constant_index(1)
    for value in values:
        total = arith.muli(total, value)
    return total


def unrank(position: ir.Value, counts: Sequence[ir.Value], loop: scf.ParallelOp) -> list[ir.Value]:
    """The induction variables of iteration number ``position``, the last one fastest."""
    numbers = []
    for place, count in reversed(list(enumerate(counts))):
        if constant(count) == 1:
            numbers.append(constant_index(0))
        elif all(constant(other) == 1 for other in counts[:place]):
            numbers.append(position)  # the outermost that moves
        else:
            numbers.append(arith.remui(position, count))
            position = arith.divui(position, count)
    return [
        arith.addi(arith.muli(number, step), low)
        for number, low, step in zip(reversed(numbers), loop.lowerBound, loop.step, strict=True)
    ]


def move_into(body: ir.Block, operations: Sequence[ir.OpView]) -> None:
    """Move operations in front of the terminator of ``body``."""
    terminator = body.operations[len(body.operations) - 1]
    for op in operations:
        op.operation.move_before(terminator.operation)


def dissolve(loop: ir.OpView, values: Sequence[ir.Value], body: ir.Block) -> None:
    """Put one iteration of ``loop``, at the given induction variables, into ``body``.

    The loop has no results. ``body`` ends in a terminator; the loop is erased.
    """
    inner = loop.regions[0].blocks[0]
    for argument, value in zip(inner.arguments, values, strict=True):
        argument.replace_all_uses_with(value)
    operations = list(inner.operations)
    move_into(body, operations[:-1])
    loop.operation.erase()


def take_iteration(loop: scf.ForOp, number: ir.Value, *, always: bool) -> None:
    """Replace a loop by its iteration ``number``, if it has that many.

    ``always``: it is known to have, so nothing is asked.
    """
    with ir.InsertionPoint(loop), loop.location:
        value = arith.addi(arith.muli(number, loop.step), loop.lowerBound)
        if always:
            for op in list(loop.body.operations)[:-1]:
                op.operation.move_before(loop.operation)
            loop.induction_variable.replace_all_uses_with(value)
            loop.operation.erase()
            return
        guard = scf.IfOp(arith.cmpi(arith.CmpIPredicate.slt, value, loop.upperBound))
        with ir.InsertionPoint(guard.then_block):
            scf.YieldOp([])
    dissolve(loop, [value], guard.then_block)


def spread_over(number: ir.Value, sizes: Sequence[int]) -> list[ir.Value]:
    """The indices of element ``number`` of an array of these sizes, the last one fastest."""
    found: list[ir.Value] = []
    for place in reversed(range(len(sizes))):
        if sizes[place] == 1:
            found.append(constant_index(0))
        elif all(size == 1 for size in sizes[:place]):
            found.append(number)
        else:
            size = constant_index(sizes[place])
            found.append(arith.remui(number, size))
            number = arith.divui(number, size)
    return found[::-1]
