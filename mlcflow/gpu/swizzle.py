"""Where the elements of a tile lie in shared memory, so that a warp reads them without waiting.

Shared memory has 32 banks of 4 bytes: threads that read different words of one bank take turns.
Rows of a tile are short, so elements below each other would share a bank. Each row therefore
holds its pieces of 16 bytes in another order: piece ``p`` of row ``r`` is at ``p ^ s(r)``.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

from mlcflow.gpu.loops import constant_index
from mlcflow.mlir import arith, ir

PIECE = 16
"""Bytes that are copied, and read by ``ldmatrix``, at once."""
_LINE = 128
"""Bytes of all banks together."""
SWIZZLE = "mlcflow.swizzle"


@dataclass(frozen=True)
class Swizzle:
    """``s(r) = ((r / every) % turns) * by``, in pieces, of which a row of the tile has ``pieces``.

    A row may be cut in ``parts`` first: all first parts of the rows, then all second ones.
    """

    pieces: int
    every: int
    turns: int
    by: int
    parts: int = 1

    def attribute(self) -> ir.Attribute:
        """As a note on the buffer."""
        return ir.DenseI64ArrayAttr.get(list(astuple(self)))

    def place(self, row: ir.Value, piece: ir.Value, rows: int) -> tuple[ir.Value, ir.Value]:
        """In which of the ``rows`` of the buffer, and where in it, a piece of ``row`` is."""
        turn = row
        if self.every > 1:
            turn = arith.divui(turn, constant_index(self.every))
        turn = arith.remui(turn, constant_index(self.turns))
        if self.by > 1:
            turn = arith.muli(turn, constant_index(self.by))
        if self.parts == 1:
            return row, arith.xori(piece, turn)
        width, whole = constant_index(self.pieces), constant_index(self.pieces * self.parts)
        part = arith.divui(piece, width)
        line = arith.addi(arith.muli(part, constant_index(rows)), row)
        inside = arith.xori(arith.remui(piece, width), turn)
        position = arith.addi(arith.muli(line, width), inside)
        return arith.divui(position, whole), arith.remui(position, whole)


def swizzle_of(buffer: ir.Value) -> Swizzle | None:
    """The swizzle that is noted on a buffer."""
    if isinstance(buffer.owner, ir.Block) or SWIZZLE not in buffer.owner.operation.attributes:
        return None
    return Swizzle(*ir.DenseI64ArrayAttr(buffer.owner.operation.attributes[SWIZZLE]))


def for_matrices(row_bytes: int) -> Swizzle | None:
    """For reads of 8 rows, a piece each, as ``ldmatrix`` does: all banks once.

    ``None`` where rows lie so already, which are made of an odd number of pieces, and where they
    are not made of whole pieces.
    """
    pieces = row_bytes // PIECE
    # So many pieces below each other, every ``8 // turns``-th row, share their banks.
    turns = min(8, pieces & -pieces)
    if row_bytes % PIECE or turns < 2:
        return None
    return Swizzle(pieces, 8 // turns, turns, 1)


def for_columns(row_bytes: int) -> Swizzle | None:
    """For reads of 4 rows, 8 neighbouring words each, as those of a factor B in tf32."""
    pieces = row_bytes // PIECE
    if row_bytes % _LINE or pieces & (pieces - 1):
        return for_matrices(row_bytes)
    return Swizzle(pieces, 1, 4, 2)


def for_descriptors(row_bytes: int) -> Swizzle | None:
    """As ``wgmma`` and the copies of whole tiles have it: rows of 32, 64 or 128 bytes, longer ones
    in parts of 128 (PTX ISA, "Swizzling modes").

    ``None`` for rows that are neither.
    """
    if row_bytes % _LINE == 0:
        return Swizzle(_LINE // PIECE, 1, 8, 1, parts=row_bytes // _LINE)
    return for_matrices(row_bytes) if row_bytes in (32, 64) else None
