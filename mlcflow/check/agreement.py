"""How far results are from those in float64, measured in what rounding allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

MARGIN = 16.0
"""How much larger the error may be than that of the reference lowering, which adds in order."""
UNITS = 32.0
"""How many roundings of the largest element are allowed in any case."""


@dataclass(frozen=True)
class Worst:
    """The worst element of a result: its error over the bound, where it is, what it should be.

    ``skipped``: elements that say nothing, since the type is too narrow for them.
    """

    ratio: float
    place: tuple[int, ...] = ()
    actual: float = 0.0
    exact: float = 0.0
    skipped: int = 0

    @property
    def agrees(self) -> bool:
        """Whether no element is further off than its bound."""
        return self.ratio <= 1.0


def worst_element(actual: np.ndarray, exact: np.ndarray, reference: np.ndarray) -> Worst:
    """Compare ``actual`` with ``exact``, which is float64 for numbers with fraction.

    ``reference`` are the results of the reference lowering in the type of ``actual``. Its own
    error says how far rounding may lead. Elements where it overflows and float64 does not are
    skipped. A NaN or an infinity that both have is expected; whole numbers must be equal.
    """
    if actual.shape != exact.shape:
        return Worst(np.inf)
    if actual.size == 0:
        return Worst(0.0)
    if actual.dtype.kind not in "fc" and actual.dtype != ml_dtypes.bfloat16:
        # What float64 rounds or compares otherwise than the type of the model says nothing.
        wrong = (actual != exact) & (exact == reference)
        return _at(np.where(wrong, np.inf, 0.0), actual, exact)
    with np.errstate(all="ignore"):
        ratios, decided = _ratios(actual, exact, reference)
    found = _at(ratios, actual, exact)
    return Worst(found.ratio, found.place, found.actual, found.exact, int((~decided).sum()))


def _ratios(
    actual: np.ndarray, exact: np.ndarray, reference: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The error of each element over its bound, and which elements say something."""
    info = ml_dtypes.finfo(actual.dtype)
    wide = np.complex128 if actual.dtype.kind == "c" else np.float64
    rounded = exact.astype(actual.dtype).astype(wide)
    got, trusted = actual.astype(wide), reference.astype(wide)
    finite = np.isfinite(rounded) & np.isfinite(trusted)
    same = (rounded == trusted) | (np.isnan(rounded) & np.isnan(trusted))
    decided = finite | (same & ~np.isfinite(rounded))
    scale = np.abs(exact)[finite].max(initial=0.0)
    noise = np.abs(trusted - exact)[finite].max(initial=0.0)
    bound = MARGIN * noise + UNITS * float(info.eps) * scale + float(info.tiny)
    error = np.where(finite, np.abs(got - exact) / bound, np.inf)
    equal = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    error = np.where(equal | ~decided, 0.0, error)
    return np.where(np.isnan(error), np.inf, error), decided


def _at(ratios: np.ndarray, actual: np.ndarray, exact: np.ndarray) -> Worst:
    ratios = np.where(np.isnan(ratios), 0.0, ratios)
    place = np.unravel_index(int(np.argmax(ratios)), ratios.shape)
    return Worst(
        float(ratios[place]),
        tuple(int(i) for i in place),
        _number(actual[place]),
        _number(exact[place]),
    )


def _number(value: Any) -> float:
    return float(abs(value)) if value.dtype.kind == "c" else float(value)
