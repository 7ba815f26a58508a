"""Linalg operations on tiles that are spread over a warp, as the work of one lane."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from mlcflow.errors import LoweringError
from mlcflow.gpu.axes import WARP
from mlcflow.gpu.fragments import Lane, sums_at
from mlcflow.gpu.hazards import root
from mlcflow.gpu.loops import constant_index, spread_over
from mlcflow.gpu.mma_form import COLUMNS, ROWS
from mlcflow.gpu.spread import Part, Parts
from mlcflow.graph.kernel import loop_extents
from mlcflow.graph.linalg_ops import indexing_maps, loop_kinds, payload
from mlcflow.mlir import arith, gpu, ir, linalg, memref

QUARTERS = (1, 2)
"""Lanes that hold the same rows differ in these bits of their numbers."""
_Place = tuple[int, int, int, int]
"""Part of the tile down and across, its half, and the side."""


def compute_elements(op: ir.OpView, parts: Parts, who: Lane) -> None:
    """Do ``op`` for the elements, or the rows, that the lane holds."""
    extents = loop_extents(op)
    if len(extents) == 1:
        for place in _places(extents[0], 0):
            _Element(op, parts, place, [_row(who, place)]).compute()
        return
    *lines, columns = extents
    rows = 1
    for line in lines:
        rows *= line
    for place in _places(rows, columns):
        below = _row(who, place)
        _Element(op, parts, place, [*spread_over(below, lines), _column(who, place)]).compute()


def reduce_rows(op: ir.OpView, parts: Parts, who: Lane) -> None:
    """``out[i] = combine(x[i, j], out[i])``: by each lane, then by the four of a row."""
    rows, columns = loop_extents(op)
    combine = payload(op)
    source, target = (parts.get(root(value)) for value in op.operation.operands)
    if len(combine) != 1 or source is None or target is None or target.columns:
        raise LoweringError(
            "the lanes of a warp reduce the rows of a tile that they hold, by one operation, to "
            "rows that they hold",
            op=str(op).split("\n")[0],
            location=str(op.location),
        )

    def combined(x: ir.Value, y: ir.Value) -> ir.Value:
        copy = combine[0].operation.clone()
        copy.operands[0], copy.operands[1] = x, y
        return copy.results[0]

    for m, half in product(range(rows // ROWS), (0, 1)):
        lanes = [
            memref.load(source.memory, source.at(m, n, half, side))
            for n in range(columns // COLUMNS)
            for side in (0, 1)
        ]
        # Two at a time: sums of neighbours first, which do not wait for each other.
        while len(lanes) > 1:
            pairs = [combined(*lanes[n : n + 2]) for n in range(0, len(lanes) - 1, 2)]
            lanes = pairs + lanes[2 * len(pairs) :]
        value = lanes[0]
        for bit in QUARTERS:
            value = combined(value, _from_neighbour(value, bit))
        at = target.at(m, 0, half, 0)
        memref.store(combined(value, memref.load(target.memory, at)), target.memory, at)


def is_reduction(op: ir.OpView) -> bool:
    """Whether ``op`` makes rows of a matrix."""
    return loop_kinds(op) == ["parallel", "reduction"]


def _from_neighbour(value: ir.Value, bit: int) -> ir.Value:
    i32 = ir.IntegerType.get_signless(32)
    distance, width = arith.constant(i32, bit), arith.constant(i32, WARP)
    mode = ir.Attribute.parse("#gpu<shuffle_mode xor>")
    return gpu.ShuffleOp(value, distance, width, mode).results[0]


def _places(rows: int, columns: int) -> Iterator[_Place]:
    across = range(columns // COLUMNS) if columns else range(1)
    sides = (0, 1) if columns else (0,)
    return product(range(rows // ROWS), across, (0, 1), sides)


def _row(who: Lane, place: _Place) -> ir.Value:
    m, _, half, _ = place
    return arith.addi(sums_at(who)[2 * half][0], constant_index(m * ROWS))


def _column(who: Lane, place: _Place) -> ir.Value:
    _, n, _, side = place
    return arith.addi(sums_at(who)[side][1], constant_index(n * COLUMNS))


class _Element:
    """One iteration of ``op``, at ``position`` of its loops: ``place`` of the tile."""

    def __init__(
        self, op: ir.OpView, parts: Parts, place: _Place, position: list[ir.Value]
    ) -> None:
        self.op, self.parts, self.place, self.position = op, parts, place, position
        self.values, self.maps = list(op.operation.operands), indexing_maps(op)

    def compute(self) -> None:
        body = self.op.operation.regions[0].blocks[0]
        known: dict[ir.Value, ir.Value] = {}
        for number, argument in enumerate(body.arguments):
            if not isinstance(self.values[number].type, ir.MemRefType):
                known[argument] = self.values[number]
            elif list(argument.uses):
                known[argument] = memref.load(*self._at(number))
        for inner in list(body.operations):
            operands = [known.get(operand, operand) for operand in inner.operation.operands]
            if inner.operation.name == "linalg.yield":
                first = len(self.values) - len(operands)  # what is written comes last
                for number, value in enumerate(operands):
                    memory, at = self._at(first + number)
                    memref.store(value, memory, at)
            elif isinstance(inner, linalg.IndexOp):
                dim = ir.IntegerAttr(inner.attributes["dim"]).value
                known[inner.result] = self.position[dim]
            else:
                copy = inner.operation.clone()
                for number, operand in enumerate(operands):
                    copy.operands[number] = operand
                known |= dict(zip(inner.operation.results, copy.results, strict=True))

    def _at(self, number: int) -> tuple[ir.Value, list[ir.Value]]:
        """Where operand ``number`` lies."""
        value, read = self.values[number], self.maps[number]
        part = self.parts.get(root(value))
        if part is None:
            return value, [_index(each, self.position) for each in read.results]
        self._check(part, read)
        return part.memory, part.at(*self.place)

    def _check(self, part: Part, read: ir.AffineMap) -> None:
        """Raise unless the element that the lane holds is the one that is read."""
        kept = read.n_dims if part.columns or read.n_dims == 1 else read.n_dims - 1
        if [str(each) for each in read.results] != [f"d{number}" for number in range(kept)]:
            raise LoweringError(
                "a lane cannot read what the others hold: expected a tile that is read as it lies",
                op=str(self.op).split("\n")[0],
                location=str(self.op.location),
            )


def _index(expression: ir.AffineExpr, position: list[ir.Value]) -> ir.Value:
    if isinstance(expression, ir.AffineDimExpr):
        return position[expression.position]
    return constant_index(ir.AffineConstantExpr(expression).value)
