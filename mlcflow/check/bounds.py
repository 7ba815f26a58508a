"""How far rounding may lead: arithmetic in float64 that carries a bound of the error along.

A ``Number`` is what exact arithmetic gives and, element by element, how far the same in the
types of the program may be from it. Two kinds of bound (Higham, *Accuracy and Stability of
Numerical Algorithms*, 2nd ed., chapters 3 and 4; Higham and Mary, SIAM J. Sci. Comput. 41(5),
2019):

``WORST``   holds for every order of every sum: a sum of ``n`` terms is off by at most
            ``gamma_n * sum(abs(terms))``, with ``gamma_n = n u / (1 - n u)``; errors add up.
``LIKELY``  holds with high probability if rounding errors are independent and zero on average:
            ``sqrt(n) u`` instead of ``gamma_n``, and errors add up in squares. It is an
            estimate, not a guarantee, and must be taken ``LAMBDA`` times.

The unit roundoff ``u`` is that of the type of each result; that of float64 is added, since the
value itself is computed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

LAMBDA = 4.0
"""How often a ``LIKELY`` bound is taken: independent errors exceed it practically never."""

DOUBLE = 2.0**-53
ROUNDOFF = {"f64": DOUBLE, "f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8}
LARGEST = {
    "f64": np.finfo(np.float64).max,
    "f32": float(np.finfo(np.float32).max),
    "f16": float(np.finfo(np.float16).max),
    "bf16": 3.3895313892515355e38,
}
SMALLEST = {"f64": 2.0**-1074, "f32": 2.0**-126, "f16": 2.0**-24, "bf16": 2.0**-126}
"""What underflow may lose: the least positive number of a type; the least normal one where some
instructions, and some of our exponentials (docs/numerics.md), take what is below it for 0."""

Error = np.ndarray | None
"""``None`` is exact; else absolute, not negative, infinite where nothing is known."""


@dataclass(frozen=True)
class Number:
    """Elements, floating-point ones in float64 or narrower, and the bound of their errors.

    The error broadcasts to the shape of the value. Of integers and truth values it is 0, or
    infinite where rounding may have decided otherwise.
    """

    value: np.ndarray
    error: Error = None

    def map(self, function: Any) -> Number:
        """The same movement of value and error."""
        if self.error is None:
            return Number(function(self.value))
        error = np.broadcast_to(self.error, self.value.shape)
        return Number(function(self.value), function(error))

    @property
    def errors(self) -> np.ndarray:
        """The error, in the shape of the value."""
        return np.broadcast_to(0.0 if self.error is None else self.error, self.value.shape)


@dataclass(frozen=True)
class Arithmetic:
    """How errors are added: ``WORST``, ``LIKELY``, or ``VALUES``, which keeps no errors.

    ``least``: a roundoff below which none is taken, for a bound that also holds of a program
    that computes in narrower types than the module says. ``tiles``: one that may compute 3x3
    convolutions a tile at a time, whose results share errors; see :mod:`.windows64`.
    """

    name: str
    squares: bool = False
    keeps: bool = True
    least: float = 0.0
    tiles: bool = False

    def roundoff(self, kind: str) -> float:
        """What an operation may lose, relative to its result."""
        return max(ROUNDOFF[kind], self.least) + DOUBLE

    def add(self, *errors: Error) -> Error:
        """The error of a sum of errors."""
        known = [error for error in errors if error is not None]
        if not known:
            return None
        if not self.squares or len(known) == 1:
            return _known(sum(known[1:], start=known[0]))
        return _known(np.sqrt(sum(np.square(error) for error in known)))

    def total(self, error: Error, axes: tuple[int, ...], shape: tuple[int, ...]) -> Error:
        """The error of a sum along ``axes`` of terms of this ``shape`` with these errors."""
        if error is None:
            return None
        whole = np.broadcast_to(error, shape)
        if self.squares:
            return _known(np.sqrt(np.square(whole).sum(axes, keepdims=True)))
        return _known(whole.sum(axes, keepdims=True))

    def growth(self, terms: int, kind: str) -> float:
        """What the sum of so many terms may lose, relative to the sum of their sizes."""
        units = terms * self.roundoff(kind)
        if self.squares:
            return min(units, np.sqrt(terms) * self.roundoff(kind))
        return units / (1 - units) if units < 1 else np.inf

    def rounded(self, value: np.ndarray, error: Error, kind: str, units: float = 1) -> Number:
        """``value`` in type ``kind``, off by ``units`` roundoffs more than ``error``."""
        if not self.keeps:
            return Number(value)
        with np.errstate(all="ignore"):
            size = np.abs(value)
            fresh = np.where(
                np.isfinite(value), size * (units * self.roundoff(kind)) + SMALLEST[kind], 0
            )
            found = self.add(error, fresh)
            assert found is not None
            # What may have become infinite in the type is no number any more.
            reach = size if error is None else size + error
            over = reach > LARGEST[kind] * (1 + ROUNDOFF[kind] / 2)
            if over.any():
                exact = np.isinf(value) & (error is None or np.equal(error, 0))
                found = np.where(over & ~exact, np.inf, found)
        return Number(value, found)


def _known(error: np.ndarray) -> np.ndarray:
    """No NaN: infinity minus infinity says that nothing is known."""
    return np.where(np.isnan(error), np.inf, error) if np.isnan(error).any() else error


WORST = Arithmetic("worst case")
LIKELY = Arithmetic("probabilistic", squares=True)
VALUES = Arithmetic("values", keeps=False)
