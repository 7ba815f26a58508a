"""The matrices of Winograd's minimal filtering, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod

Matrix = tuple[tuple[Fraction, ...], ...]


@dataclass(frozen=True)
class Winograd:
    """``A^T ((G g) * (B^T d))`` is what a filter ``g`` makes of ``m + r - 1`` values ``d``.

    ``window``: B^T, square; ``filter``: G, with a column for each of the ``r`` numbers of the
    filter; ``result``: A^T, with a row for each of the ``m`` results. The product in the middle
    is elementwise: ``m + r - 1`` multiplications in place of ``m * r``.
    """

    window: Matrix
    filter: Matrix
    result: Matrix

    @property
    def tile(self) -> int:
        """Results along one dimension of a tile, ``m``."""
        return len(self.result)

    @property
    def extent(self) -> int:
        """Values of the image along one dimension of a tile, ``m + r - 1``."""
        return len(self.window)


def winograd_matrices(points: Sequence[Fraction], size: int) -> Winograd:
    """The matrices for filters of ``size`` numbers, by the method of Toom and Cook.

    A product of polynomials is interpolated from its values at ``points`` and at infinity;
    transposed, that is a correlation (Winograd, *Arithmetic Complexity of Computations*, 1980;
    Lavin and Gray, arXiv:1509.09308). There is one point less than values of a tile.

    >>> half = winograd_matrices([Fraction(p) for p in (0, 1, -1)], 3)
    >>> [[int(x) for x in row] for row in half.result]
    [[1, 1, 1, 0], [0, 1, -1, 1]]
    """
    extent = len(points) + 1
    others = [[q for q in points if q != p] for p in points]
    scales = [
        prod((p - q for q in rest), start=Fraction(1))
        for p, rest in zip(points, others, strict=True)
    ]
    window = [_polynomial(rest, extent) for rest in others] + [_polynomial(points, extent)]
    factors = [
        tuple(x / scale for x in row)
        for row, scale in zip(_powers(points, size), [*scales, Fraction(1)], strict=True)
    ]
    result = tuple(zip(*_powers(points, extent - size + 1), strict=True))
    return Winograd(tuple(window), tuple(factors), result)


def _powers(points: Sequence[Fraction], count: int) -> list[tuple[Fraction, ...]]:
    """Each point to the power of 0, 1, ...; infinity has the last of them only."""
    last = (Fraction(0),) * (count - 1) + (Fraction(1),)
    return [*(tuple(point**n for n in range(count)) for point in points), last]


def _polynomial(roots: Sequence[Fraction], length: int) -> tuple[Fraction, ...]:
    """The coefficients of the product of all ``x - root``, the constant first."""
    found = [Fraction(1)]
    for root in roots:
        found = [
            a - root * b for a, b in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)
        ]
    return tuple(found + [Fraction(0)] * (length - len(found)))
