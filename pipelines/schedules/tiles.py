"""Choosing tile sizes."""

from __future__ import annotations


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
