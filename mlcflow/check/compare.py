"""Comparing the results of a compiled model with those of the original."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlcflow.errors import VerificationError
from mlcflow.runtime.dtypes import NUMPY, is_tensor

TOLERANCES: dict[str, tuple[float, float]] = {
    "float64": (1e-7, 1e-7),
    "complex128": (1e-7, 1e-7),
    "float32": (1e-3, 1e-4),
    "complex64": (1e-3, 1e-4),
    "float16": (2e-2, 2e-2),
    "bfloat16": (1e-1, 1e-1),
}
"""Relative and absolute tolerance by element type, where nothing better is known; other types
must be equal."""


def compare(actual: list, expected: list, bounds: Sequence[np.ndarray | None] = ()) -> None:
    """Raise ``VerificationError`` with the worst element of each result that differs.

    NaN equals NaN and an infinity equals itself. Results also must have the expected shapes
    and element types. ``bounds``: how far the elements of the first results may be apart, in
    the shape of each; ``None``, and where infinite, ``TOLERANCES``.
    """
    if len(actual) != len(expected):
        raise VerificationError(f"expected {len(expected)} results, got {len(actual)}")
    limits = [*bounds, *[None] * (len(actual) - len(bounds))]
    problems = [
        f"result {number}: {problem}"
        for number, (a, e, limit) in enumerate(zip(actual, expected, limits, strict=True))
        if (problem := _difference(a, e, limit))
    ]
    if problems:
        raise VerificationError(
            "the compiled model differs from the original:\n  " + "\n  ".join(problems)
        )


def _difference(actual: Any, expected: Any, bound: np.ndarray | None) -> str:
    """What is wrong with ``actual``; empty if nothing is."""
    if not _is_array(actual) or not _is_array(expected):
        same = type(actual) is type(expected) and actual == expected
        return "" if same else f"expected {expected!r}, got {actual!r}"
    got, got_dtype = _array(actual)
    want, dtype = _array(expected)
    if got_dtype != dtype or got.shape != want.shape:
        return f"expected {dtype}{list(want.shape)}, got {got_dtype}{list(got.shape)}"
    relative, absolute = TOLERANCES.get(dtype, (0.0, 0.0))
    with np.errstate(all="ignore"):
        same = (got == want) | ((got != got) & (want != want))  # NaN, in any type
        error = np.where(same, 0.0, np.abs(got - want))
        allowed = absolute + relative * np.abs(want)
        if absolute and bound is not None:
            allowed = np.where(np.isfinite(bound), bound, allowed)
        excess = np.where(same, 0.0, error - allowed)
    # A NaN on one side only is never within the tolerance, and differences of integers may
    # overflow.
    bad = ~same & (~(excess <= 0) if absolute else True)
    if not bad.any():
        return ""
    score = np.where(bad, np.nan_to_num(excess.astype(np.float64), nan=np.inf), -np.inf)
    worst = np.unravel_index(int(np.argmax(score)), got.shape)
    limit = f"tolerance for {dtype}: {relative:g} relative + {absolute:g} absolute"
    if absolute and bound is not None and np.isfinite(bound[worst]):
        limit = f"rounding: {bound[worst]:.3g}"
    return (
        f"{int(bad.sum())} of {got.size} elements are wrong; the worst, at "
        f"{[int(i) for i in worst]}, is {got[worst]} and should be {want[worst]} "
        f"({limit})"
    )


def _is_array(value: Any) -> bool:
    return is_tensor(value) or isinstance(value, np.ndarray | np.generic | float | complex)


def _array(value: Any) -> tuple[np.ndarray, str]:
    """The value in a type wide enough to subtract, and the name of its own type."""
    if is_tensor(value):
        dtype = str(value.dtype).removeprefix("torch.")
        value = value.detach().resolve_conj().resolve_neg()
        array = value.float().numpy() if dtype == "bfloat16" else value.numpy()
    else:
        array = np.asarray(value)
        # A Python number that a model returns was an element of a tensor, mostly float32.
        dtype = {float: "float32", complex: "complex64"}.get(type(value), array.dtype.name)
    if NUMPY[dtype].kind in "iub":
        return array.astype(object) if dtype == "uint64" else array.astype(np.int64), dtype
    return array.astype(np.complex128 if NUMPY[dtype].kind == "c" else np.float64), dtype
