"""Where the elements of a tile lie in shared memory, so that a warp reads them without waiting.

Shared memory has 32 banks of 4 bytes: threads that read different words of one bank take turns.
Rows of a tile are short, so elements below each other would share a bank. Each row therefore
holds its pieces of 16 bytes in another order: piece ``p`` of row ``r`` is at ``p ^ s(r)``.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlcflow.gpu.loops import constant_index
from mlcflow.mlir import arith, ir

PIECE = 16
"""Bytes that are copied, and read by ``ldmatrix``, at once."""
_LINE = 128
"""Bytes of all banks together."""
SWIZZLE = "mlcflow.swizzle"


@dataclass(frozen=True)
class Swizzle:
    """``s(r) = ((r / every) % turns) * by``, in pieces; ``pieces`` in a row of the tile."""

    pieces: int
    every: int
    turns: int
    by: int

    def attribute(self) -> ir.Attribute:
        """As a note on the buffer."""
        return ir.DenseI64ArrayAttr.get([self.pieces, self.every, self.turns, self.by])

    def place(self, row: ir.Value, piece: ir.Value) -> ir.Value:
        """Where in ``row`` the piece is."""
        if self.every > 1:
            row = arith.divui(row, constant_index(self.every))
        turn = arith.remui(row, constant_index(self.turns))
        if self.by > 1:
            turn = arith.muli(turn, constant_index(self.by))
        return arith.xori(piece, turn)


def swizzle_of(buffer: ir.Value) -> Swizzle | None:
    """The swizzle that is noted on a buffer."""
    if isinstance(buffer.owner, ir.Block) or SWIZZLE not in buffer.owner.operation.attributes:
        return None
    return Swizzle(*ir.DenseI64ArrayAttr(buffer.owner.operation.attributes[SWIZZLE]))


def for_matrices(row_bytes: int) -> Swizzle | None:
    """For reads of 8 rows, a piece each, as ``ldmatrix`` does: all banks once.

    ``None`` where rows are not made of a power of two of pieces.
    """
    pieces = row_bytes // PIECE
    if row_bytes % PIECE or pieces < 2 or pieces & (pieces - 1):
        return None
    every = max(1, _LINE // row_bytes)
    return Swizzle(pieces, every, min(pieces, 8), 1)


def for_columns(row_bytes: int) -> Swizzle | None:
    """For reads of 4 rows, 8 neighbouring words each, as those of a factor B in tf32."""
    pieces = row_bytes // PIECE
    if row_bytes % _LINE or pieces & (pieces - 1):
        return for_matrices(row_bytes)
    return Swizzle(pieces, 1, 4, 2)
