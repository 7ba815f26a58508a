"""Softmax a part of a row at a time: maximum and sum so far, and what they weigh, set right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlcflow.errors import ScheduleError
from mlcflow.graph.kernel import loop_extents
from mlcflow.graph.linalg_ops import (
    indexing_maps,
    inputs,
    is_elementwise,
    is_fill,
    is_linalg,
    loop_kinds,
    outputs,
    owner,
    payload,
)
from mlcflow.mlir import ir, linalg, tensor
from mlcflow.schedule.emit import clean, match_block, name_blocks
from mlcflow.schedule.interpret import Handle
from mlcflow.schedule.labels import Loop, loop_names
from mlcflow.schedule.loops import forget

if TYPE_CHECKING:
    from mlcflow.schedule.schedule import Schedule

POWERS = ("math.exp", "math.exp2")


@dataclass(frozen=True)
class Rows:
    """``softmax``-weighted sums of rows, on tiles without loops of one iteration.

    ``scores[i, j]``; ``above``: what changes them, one for itself; ``largest[i]``; ``bounds``: what
    is made of it; ``powers = exp(x[i, j] - bound[i])``; ``sums[i]``; ``between``: what rounds the
    powers; ``product[i, h] += powers[i, j] * V[j, h]``.
    """

    scores: ir.OpView
    above: tuple[ir.OpView, ...]
    largest: ir.OpView
    bounds: tuple[ir.OpView, ...]
    powers: ir.OpView
    sums: ir.OpView
    between: tuple[ir.OpView, ...]
    product: ir.OpView


def rolling_update(schedule: Schedule, block: str, size: int) -> Loop:
    """See :meth:`Schedule.rolling_update`."""
    found = read_rows(schedule.block(block))
    if isinstance(found, str):
        raise ScheduleError(f"rolling_update: '{block}' is not the start of a softmax: {found}")
    extent = loop_extents(found.scores)[1]
    if not 0 < size <= extent:
        raise ScheduleError(f"rolling_update: rows of {extent} scores, got parts of {size}")
    name = f"{loop_names(found.scores)[1]}_0"

    def build(root: Handle) -> None:
        i64 = ir.IntegerType.get_signless(64)
        ir.Operation.create(
            "schedule.rolling_update",
            operands=[match_block(root, block)],
            attributes={
                "size": ir.IntegerAttr.get(i64, size),
                "loop_name": ir.StringAttr.get(name),
            },
        )
        name_blocks(root)
        clean(root)

    schedule.apply("rolling_update", {"block": block, "size": size}, build)
    if name not in [loop.name for loop in schedule.loops(block)]:  # one iteration, or a mask's
        forget(schedule, Loop(block, name, 1, "reduction"))
    return schedule.loop(f"{block}.{name}")


def read_rows(scores: ir.OpView, batch: int = 0) -> Rows | str:
    """The softmax that begins with ``scores``; in words what it lacks, if it is none.

    ``batch``: how many loops all of it has around those of a matrix.
    """
    around = [op for op in scores.operation.block.operations if is_linalg(op) and not is_fill(op)]
    users = {op.operation: [o for o in around if _reads(o, op)] for op in around}
    if loop_kinds(scores) != ["parallel"] * (batch + 2) + ["reduction"]:
        return "expected the loops of one matrix product, without those of a batch"
    above, last = [], scores
    while len(users[last.operation]) == 1 and is_elementwise(users[last.operation][0]):
        last = users[last.operation][0]
        above.append(last)
    readers = users[last.operation]
    largest = [op for op in readers if _reduces(op, "arith.maximumf")]
    powers = [op for op in readers if _subtracts(op, last, batch)]
    if len(readers) != 2 or len(largest) != 1 or len(powers) != 1:
        return "expected scores whose only readers are a maximum of rows and a power"
    bounds = _chain(owner(inputs(powers[0])[1]), largest[0], batch + 1)
    if bounds is None:
        return "expected powers of the distance to what is made of the maximum"
    readers = users[powers[0].operation]
    sums = [op for op in readers if _reduces(op, "arith.addf")]
    rest = [op for op in readers if op not in sums]
    between = []
    while len(rest) == 1 and is_elementwise(rest[0]):
        between.append(rest[0])
        rest = users[rest[0].operation]
    if len(sums) != 1 or len(rest) != 1 or not linalg.isa_contraction_op(rest[0].operation):
        return "expected powers that are added up and multiplied by a matrix"
    starts = [filled_with(outputs(op)[0]) for op in (scores, largest[0], sums[0], rest[0])]
    if any(start is None for start in starts):
        return "expected products and reductions that begin with fills"
    return Rows(
        scores, tuple(above), largest[0], bounds, powers[0], sums[0], tuple(between), rest[0]
    )


def filled_with(value: ir.Value) -> ir.Value | None:
    """The number that a fill has set all elements of ``value`` to."""
    start = owner(value)
    while isinstance(start, tensor.ExtractSliceOp):
        start = owner(start.source)
    return inputs(start)[0] if start is not None and is_fill(start) else None


def _reads(op: ir.OpView, producer: ir.OpView) -> bool:
    return any(value in list(op.operation.operands) for value in producer.results)


def _reduces(op: ir.OpView, name: str) -> bool:
    body = [inner.operation.name for inner in payload(op)]
    *rows, last = loop_kinds(op)
    return last == "reduction" and "reduction" not in rows and body == [name]


def _subtracts(op: ir.OpView, scores: ir.OpView, batch: int) -> bool:
    """Whether ``op`` is a power of what it makes of scores, less a number for each row."""
    if not is_elementwise(op) or len(inputs(op)) != 2 or inputs(op)[0] != scores.results[0]:
        return False
    body, row = payload(op), op.operation.regions[0].blocks[0].arguments[1]
    rows = [str(e) for e in indexing_maps(op)[1].results]
    return (
        rows == [f"d{number}" for number in range(batch + 1)]
        and body[-1].operation.name in POWERS
        and len(list(row.uses)) == 1
        and body[-2].operation.name == "arith.subf"
        and body[-2].operands[1] == row
        and body[-1].operands[0] == body[-2].results[0]
    )


def _chain(op: ir.OpView | None, first: ir.OpView, loops: int) -> tuple[ir.OpView, ...] | None:
    """The elementwise operations from ``first`` to ``op``, which read nothing else of rows."""
    found: list[ir.OpView] = []
    while op is not None and op != first:
        made = [owner(value) for value in inputs(op) if indexing_maps(op)[0].n_dims == loops]
        made = [m for m in made if m is not None and is_linalg(m)]
        if not is_elementwise(op) or len(made) != 1:
            return None
        found.append(op)
        op = made[0]
    return tuple(reversed(found)) if op is not None else None
