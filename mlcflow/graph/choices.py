"""Elementwise operations that compute something else at each position of some short loops.

The body of the operation has all of it, and picks by ``linalg.index``. Once these loops are
written out, the position is known and one computation is left of the body.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mlcflow.graph.linalg_ops import is_elementwise, owner, payload
from mlcflow.mlir import arith, ir

MOST = 8
"""Iterations of a loop whose positions are told apart; a mask over a row is something else."""


def pick(position: ir.Value, values: Sequence[ir.Value]) -> ir.Value:
    """The one of ``values`` whose number is ``position``, an index."""
    chosen = values[-1]
    for number in reversed(range(len(values) - 1)):
        here = arith.constant(ir.IndexType.get(), number)
        is_here = arith.cmpi(arith.CmpIPredicate.eq, position, here)
        chosen = arith.select(is_here, values[number], chosen)
    return chosen


def loops_that_choose(op: ir.OpView, extents: Sequence[int]) -> list[int]:
    """The loops by whose position ``op`` picks what it computes; none if it does more with it."""
    if not is_elementwise(op):
        return []
    found = set()
    for inner in payload(op):
        if inner.operation.name == "linalg.index":
            loop = ir.IntegerAttr(inner.attributes["dim"]).value
            if extents[loop] > MOST or not all(
                _tells_apart(use.owner) for use in inner.result.uses
            ):
                return []
            found.add(loop)
    return sorted(found)


def times_computed(op: ir.OpView, extents: Sequence[int]) -> list[tuple[ir.OpView, int]]:
    """Each operation of the body, and how often a call needs it.

    What does not depend on the position along a loop that chooses is needed once for all of
    its iterations.
    """
    chosen = loops_that_choose(op, extents)
    follows: dict[ir.Value, set[int]] = {}
    found = []
    for inner in payload(op):
        loops = {loop for value in inner.operands for loop in follows.get(value, ())}
        if inner.operation.name == "linalg.index":
            loops = {ir.IntegerAttr(inner.attributes["dim"]).value}
        follows.update((result, loops) for result in inner.results)
        around = [n for loop, n in enumerate(extents) if loop in loops or loop not in chosen]
        found.append((inner, math.prod(around)))
    return found


def _tells_apart(op: ir.Operation) -> bool:
    """Whether ``op`` compares a position with a constant."""
    if op.name != "arith.cmpi":
        return False
    made_by = [owner(value) for value in op.operands]
    return any(p is not None and p.operation.name == "arith.constant" for p in made_by)
