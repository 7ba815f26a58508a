"""Tiles of a warp that are spread over the registers of its lanes.

Of each 16 x 8 part of a matrix a lane holds 4 elements, as ``mma.sync`` wants its sums; of 16
rows, a number for each, it holds those of its two rows, as do the three lanes next to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlcflow.errors import LoweringError
from mlcflow.gpu.axes import WARP
from mlcflow.gpu.fragments import fill, stack
from mlcflow.gpu.hazards import root
from mlcflow.gpu.loops import constant_index
from mlcflow.gpu.memory import OWN
from mlcflow.gpu.mma_form import COLUMNS, ROWS
from mlcflow.mlir import ir, memref, vector
from mlcflow.schedule.labels import INTRINSIC


@dataclass(frozen=True)
class Part:
    """What a lane holds of a tile: a matrix, its elements by two; or rows, ``columns`` being 0."""

    memory: ir.Value
    rows: int
    columns: int

    def at(self, m: int, n: int, half: int, side: int) -> list[ir.Value]:
        """Where the element is that part ``m``, ``n`` of the tile has in its upper or lower half,
        the first or second in its row.
        """
        if not self.columns:
            return [constant_index(2 * m + half)]
        number = (m * (self.columns // COLUMNS) + n) * 2 + half
        return [constant_index(number), constant_index(side)]

    def pair(self, m: int, n: int, half: int) -> ir.Value:
        """Both elements of a row that part ``m``, ``n`` of a matrix has here."""
        element = ir.MemRefType(self.memory.type).element_type
        return vector.load(ir.VectorType.get([2], element), self.memory, self.at(m, n, half, 0))

    def left(self, m: int, k: int) -> ir.Value:
        """The registers of a factor on the left, at column ``k``.

        Of 32 bits the neighbours that a lane holds come as steps of the reduction that lie 4 apart,
        so the factor on the right is read likewise.
        """
        first = k // COLUMNS
        if ir.MemRefType(self.memory.type).element_type.width == 16:
            parts = range(first, min(first + 2, self.columns // COLUMNS))
            return fill([self.pair(m, n, half) for n in parts for half in (0, 1)], 4)
        pairs = [self.pair(m, first, half) for half in (0, 1)]
        one = ir.VectorType.get([1], ir.F32Type.get())
        values = [vector.extract(pair, [], [side]) for side in (0, 1) for pair in pairs]
        return stack([vector.from_elements(one, [value]) for value in values])


Parts = dict[ir.Value, Part]
"""By the buffers that they take the place of."""


def spread_tiles(marked: list[ir.OpView]) -> Parts:
    """Registers for the sums of the marked products, and for what is computed of them.

    Raises ``LoweringError`` where others need the sums.
    """
    found: Parts = {}
    for op in marked:
        buffer = root(op.operation.operands[2])
        if buffer not in found:
            found[buffer] = _part(buffer, _required(buffer, _tile(op.operation.operands[2])))
    pending = list(found)
    while pending:
        for op in users(pending.pop()):
            for number, value in enumerate(op.operation.operands):
                is_right = INTRINSIC in op.operation.attributes and number == 1
                if is_right or not isinstance(value.type, ir.MemRefType):
                    continue
                buffer = root(value)
                if buffer not in found and _is_made_here(buffer) and (tile := _suits(buffer)):
                    found[buffer] = _part(buffer, tile)
                    pending.append(buffer)
    return found


def _is_made_here(buffer: ir.Value) -> bool:
    """Whether ``buffer`` belongs to a block, and is not in shared memory already."""
    if isinstance(buffer.owner, ir.Block) or not isinstance(buffer.owner.opview, memref.AllocOp):
        return False
    return "workgroup" not in str(ir.MemRefType(buffer.type).memory_space)


def _required(buffer: ir.Value, tile: tuple[int, int]) -> tuple[int, int]:
    if isinstance(buffer.owner, ir.Block) or not isinstance(buffer.owner.opview, memref.AllocOp):
        raise LoweringError(
            "tensor cores add to what is not made in the loops of the block; "
            "give the block a result of its own by cache_write"
        )
    for op in users(buffer):
        shapes = {_tile(v) for v in op.operation.operands if is_part(v, buffer)}
        if shapes != {tile}:
            raise LoweringError(
                f"the sums of a warp are {tile[0]} x {tile[1]}; expected every block that reads or "
                f"writes them to do so by such tiles, found {sorted(map(list, shapes))}",
                op=str(op).split("\n")[0],
            )
    return tile


def _suits(buffer: ir.Value) -> tuple[int, int] | None:
    """The tile of ``buffer`` that all its users work on, if a warp can hold it."""
    try:
        views = [v for op in users(buffer) for v in op.operation.operands if is_part(v, buffer)]
    except LoweringError:
        return None
    shapes = {_tile(view) for view in views}
    rows, columns = next(iter(shapes))
    is_whole = rows % ROWS == 0 and columns % COLUMNS == 0
    return (rows, columns) if len(shapes) == 1 and is_whole else None


def _part(buffer: ir.Value, tile: tuple[int, int]) -> Part:
    rows, columns = tile
    shape = [rows * columns // WARP // 2, 2] if columns else [2 * rows // ROWS]
    element = ir.MemRefType(buffer.type).element_type
    with ir.InsertionPoint(buffer.owner), buffer.owner.location:
        own = memref.alloc(ir.MemRefType.get(shape, element), [], [])
    own.owner.attributes[OWN] = ir.UnitAttr.get()
    return Part(own, rows, columns)


def is_part(value: ir.Value, buffer: ir.Value) -> bool:
    """Whether ``value`` is a view of ``buffer``."""
    return isinstance(value.type, ir.MemRefType) and root(value) == buffer


def _tile(value: ir.Value) -> tuple[int, int]:
    """Rows, over all dimensions but the last, and columns of a view; 0 columns of a vector."""
    *rows, columns = ir.MemRefType(value.type).shape
    return (math.prod(rows), columns) if rows else (columns, 0)


def users(value: ir.Value) -> list[ir.OpView]:
    """The linalg operations on a buffer, through its views."""
    found: list[ir.OpView] = []
    for use in value.uses:
        op = use.owner.opview
        if isinstance(op, memref.SubViewOp):
            found += users(op.result)
        elif op.operation.name.startswith("linalg."):
            found.append(op)
        elif not isinstance(op, memref.DeallocOp):
            raise LoweringError(
                "the sums of tensor cores can only be worked on by linalg operations",
                op=str(op),
                location=str(op.location),
            )
    return list(dict.fromkeys(found))
