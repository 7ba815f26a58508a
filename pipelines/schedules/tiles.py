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
