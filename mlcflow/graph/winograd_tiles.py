"""Deciding which convolutions Winograd's filtering makes faster, and by which tiles."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from mlcflow.target import Target

POINTS = {
    2: tuple(Fraction(point) for point in (0, 1, -1)),
    4: tuple(Fraction(point) for point in (0, 1, -1, Fraction(1, 2), -2)),
}
"""For each size of a tile, where its polynomials are evaluated.

With 2 and 1/2 of opposite signs the errors of tiles of 4 are two thirds of those with 2 and -2
(Barabasz, Anderson, Soodhalter, Gregg, *Error Analysis and Improving the Accuracy of Winograd
Convolution for Deep Neural Networks*, 2020).
"""

LEAST_CHANNELS = 16
"""With fewer the sums are so short that what the transforms round is most of the error."""
LEAST_WORK = 1 << 25
"""Floating-point operations: a smaller convolution takes no longer than to wake threads thrice."""
WORTH = 0.75
"""What the model below must promise: it knows nothing of what else is in the caches."""

# Floating-point operations in the time that a byte takes, on one core as on two.
CACHE_BYTE = 4
MEMORY_BYTE = 12


def best_tile(loops: Sequence[int], target: Target) -> int:
    """The size of the tiles, 2 or 4; 0 where the sum of products is as fast.

    ``loops`` of the convolution: n, y, x, f, r, s, c. Milliseconds on 2 cores (1 core) of the
    3x3 convolutions of a ResNet-50, transforms included, which this follows:

    ============== =========== =========== ===========
    channels, size direct      tiles of 2  tiles of 4
    ============== =========== =========== ===========
    64, 56x56      1.10 (1.99) 0.75 (1.15) 0.37 (0.66)
    128, 28x28     0.99 (1.97) 0.56 (1.00) 0.36 (0.63)
    256, 14x14     1.02 (1.97) 0.55 (1.05) 0.50 (1.10)
    512, 7x7       1.02 (2.12) 1.33 (2.58) 2.10 (4.17)
    ============== =========== =========== ===========

    Fewer pixels than channels read filters that are 16 or 36 to 9 as large, from memory.
    """
    n, height, width, f, _, _, c = loops
    work = 18 * n * height * width * f * c
    if min(f, c) < LEAST_CHANNELS or work < LEAST_WORK:
        return 0
    direct = work + MEMORY_BYTE * 36 * f * c
    costs = {tile: _cost(tile, loops, target) for tile in POINTS}
    best = min(costs, key=costs.__getitem__)
    return best if costs[best] < WORTH * direct else 0


def _cost(tile: int, loops: Sequence[int], target: Target) -> float:
    """The time of a convolution by tiles, in floating-point operations."""
    n, height, width, f, _, _, c = loops
    planes, tiles = (tile + 2) ** 2, n * -(-height // tile) * -(-width // tile)
    between = 4 * planes * tiles * (f + c)  # written by one kernel, read by the next
    byte = CACHE_BYTE if between < target.caches[2] else MEMORY_BYTE
    cut = 8 * n * height * width * f if height % tile or width % tile else 0
    filters = MEMORY_BYTE * 4 * planes * f * c
    return 2 * planes * tiles * f * c + filters + 2 * byte * between + CACHE_BYTE * cut
