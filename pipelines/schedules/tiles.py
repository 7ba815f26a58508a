"""Choosing tile sizes."""

from __future__ import annotations

import math


def divisor(extent: int, most: int, *, prefer: int = 1) -> int:
    """The largest divisor of ``extent`` up to ``most``; a multiple of ``prefer`` if there is one.

    >>> divisor(96, 32, prefer=16), divisor(10, 32, prefer=16), divisor(33, 14)
    (32, 10, 11)
    """
    fitting = [size for size in range(1, min(extent, most) + 1) if extent % size == 0]
    preferred = [size for size in fitting if size % prefer == 0]
    return max(preferred or fitting)


def row_tile(extent: int, lanes: int) -> int:
    """How many elements of a row of ``extent`` to keep in registers at once.

    One or two whole vectors if they divide the row, else a part of one: a vector of 14 takes
    one register of 16, but LLVM takes one of 28 apart at every load (7 instead of 106 GFLOP/s
    in a convolution over rows of 28).

    >>> row_tile(96, 16), row_tile(48, 16), row_tile(56, 16), row_tile(10, 16)
    (32, 16, 14, 10)
    """
    if extent % lanes == 0:
        return divisor(extent, 2 * lanes, prefer=lanes)
    return divisor(extent, lanes)


def register_tile(
    m: int, n: int, lanes: int, registers: int, register_bytes: int = 64, most: int = 1 << 30
) -> tuple[int, int]:
    """Rows and columns of the part of a matrix product that stays in vector registers.

    ``m`` by ``n``: the whole result; ``lanes``: elements of one of the ``registers``. Columns
    are a power of two of registers, or a part of one. Of the tiles that leave room for a row of
    B and an element of A, and have at most ``most`` rows, takes the one that needs the fewest
    cycles for a column of A times a row of B over the whole result, the overlap of the last
    tiles included.

    >>> register_tile(1024, 1024, 16, 32), register_tile(197, 768, 16, 32)
    ((13, 32), (11, 32))
    >>> register_tile(1, 512, 16, 32), register_tile(32, 10, 16, 32)
    ((1, 128), (16, 10))
    >>> register_tile(64, 64, 8, 16, 32)
    (6, 16)
    """
    best: tuple[float, int, int] | None = None
    for vectors in (1, 2, 4, 8):
        columns = n if n < lanes else vectors * lanes
        if columns > n or (n < lanes and vectors > 1):
            break
        for rows in range(1, min(m, most, most_rows(vectors, registers)) + 1):
            tiles = -(-m // rows) * -(-n // columns)
            cost = tiles * _cycles(rows, vectors, register_bytes)
            if best is None or (cost, -rows * columns) < (best[0], -best[1] * best[2]):
                best = (cost, rows, columns)
    assert best is not None  # one row of a part of a register always fits
    return best[1], best[2]


def most_rows(vectors: int, registers: int) -> int:
    """Rows of so many vectors that LLVM keeps in registers, as seen in its assembly.

    Of 32 registers, 28 accumulators spill and 26 do not; of 16, 12 rows of one vector spill and
    6 of two do not.

    >>> [most_rows(vectors, 32) for vectors in (1, 2, 4)], most_rows(2, 16)
    ([16, 13, 6], 6)
    """
    return min(registers // 2, registers * 13 // 16 // vectors)


def row_block(m: int, n: int, registers: int, l1_bytes: int) -> tuple[int, int]:
    """Rows of a register tile, and rows of a block of several, of a matrix that is used at once.

    ``m`` by ``n`` elements of four bytes; the columns of a register tile are two vectors. A block
    is as large as fits into the L1 cache, one register tile at least. Of these, the ones that
    take the fewest cycles, the overlap of the last block included.

    >>> row_block(512, 512, 32, 32 << 10), row_block(197, 197, 32, 32 << 10)
    ((12, 12), (11, 33))
    >>> row_block(8, 4096, 32, 32 << 10), row_block(9, 8, 16, 32 << 10)
    ((8, 8), (6, 6))
    """
    best: tuple[float, int, int] | None = None
    for mi in range(1, min(m, registers * 3 // 8) + 1):
        for count in range(1, max(1, min(l1_bytes // (4 * n * mi), m // mi)) + 1):
            cost = -(-m // (mi * count)) * count * _cycles(mi, 2, 64)
            if best is None or (cost, -mi, -count) < best:
                best = (cost, -mi, -count)
    assert best is not None  # one row
    return -best[1], best[1] * best[2]


PAGE = 4096


def rows_in_cache(row_bytes: int, l1_bytes: int) -> int:
    """Rows of A, so far apart, that a tile may read without losing their lines of L1 in between.

    Caches of the first level find the set of an address by its place in a page: each page has a
    line in each set. Rows at the same place push each other out when they are more than those;
    two are left to B and to the result. A tile of 12 rows over rows of 4096 bytes takes 20 %
    longer than one of 6 where there are 8.

    >>> rows_in_cache(4096, 32 << 10), rows_in_cache(3072, 32 << 10), rows_in_cache(4096, 48 << 10)
    (6, 24, 10)
    """
    places = PAGE // math.gcd(PAGE, row_bytes)
    return max(l1_bytes // PAGE - 2, 1) * places


def _cycles(rows: int, vectors: int, register_bytes: int) -> float:
    """Half cycles that one step along the reduction takes, on a core of two FMA units.

    They work in a pipeline 4 deep, so that 8 accumulators keep them busy. Two loads are done
    in a cycle, and B comes from the L2 cache at 18 bytes a cycle. The 2 are the loop itself.
    """
    return max(rows * vectors, rows + vectors, vectors * register_bytes / 9, 8) + 2
