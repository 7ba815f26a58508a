"""Whether results are right."""

from __future__ import annotations

import math

import numpy as np


def difference(actual: list[np.ndarray], expected: list[np.ndarray], tolerance: float) -> float:
    """The largest error, in units of what rounding explains: 1 or less is right.

    Infinite where shapes differ, where one is not a number and the other is, or where results
    that are not floating-point numbers are not equal.
    """
    if len(actual) != len(expected):
        return math.inf
    worst = 0.0
    for got, want in zip(actual, expected, strict=True):
        if got.shape != want.shape:
            return math.inf
        if want.dtype.kind != "f":
            worst = max(worst, 0.0 if np.array_equal(got, want) else math.inf)
        elif want.size:
            worst = max(worst, _error(got.astype(np.float64), want, tolerance))
    return worst


def _error(got: np.ndarray, want: np.ndarray, tolerance: float) -> float:
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True):
        return math.inf
    if not np.isfinite(got[finite]).all():
        return math.inf
    if not finite.any():
        return 0.0
    error = float(np.abs(got[finite] - want[finite]).max())
    allowed = tolerance * float(np.abs(want[finite]).max())
    return error / allowed if allowed else (math.inf if error else 0.0)
