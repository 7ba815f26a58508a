"""Sums of products over any loops as products of matrices in float64, with error bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from mlcflow.check.bounds import Arithmetic, Error, Number
from mlcflow.check.windows64 import largest_of_tile

Matrices = Callable[[np.ndarray, np.ndarray], np.ndarray]


def contract(
    a: Number,
    b: Number,
    start: Number,
    reduced: tuple[int, ...],
    extents: list[int],
    kind: str,
    how: Arithmetic,
    tiled: Sequence[int] = (),
) -> Number:
    """``start + sum(a * b)`` over the loops ``reduced``, in type ``kind``.

    The axes of all are the loops, of size 1 for those that a factor does not follow; the result
    has size 1 for the loops that are summed. The bound is that of an inner product:
    ``gamma_n * sum(abs(a) * abs(b))`` in any order, with multiplications fused or not.
    ``tiled``: loops whose results can be computed by tiles; then it is the largest of a tile,
    if the program may do so.
    """
    multiply = _matrices(a.value, b.value, reduced, extents)
    value = multiply(a.value, b.value) + start.value
    if not how.keeps:
        return Number(value)
    sizes = multiply(np.abs(a.value), np.abs(b.value)) + np.abs(start.value)
    if tiled and how.tiles:
        sizes = largest_of_tile(sizes, tiled)
    terms = 1 + math.prod(extents[loop] for loop in reduced)
    fresh = how.growth(terms, kind) * np.nan_to_num(sizes, nan=np.inf, posinf=np.inf)
    error = how.add(_inherited(a, b, multiply, how), start.error, fresh)
    return how.rounded(value, error, kind, 0)


def _inherited(a: Number, b: Number, multiply: Matrices, how: Arithmetic) -> Error:
    """What the sum is off by because its factors are."""
    size: Callable[[np.ndarray], np.ndarray] = np.square if how.squares else np.abs
    parts: list[np.ndarray] = []
    if a.error is not None:
        parts.append(multiply(size(a.errors), size(b.value)))
    if b.error is not None:
        parts.append(multiply(size(a.value), size(b.errors)))
    if a.error is not None and b.error is not None:
        parts.append(multiply(size(a.errors), size(b.errors)))
    if not parts:
        return None
    total = sum(parts[1:], start=parts[0])
    found = np.sqrt(total) if how.squares else total
    return np.where(np.isnan(found), np.inf, found)


def _matrices(
    a: np.ndarray, b: np.ndarray, reduced: tuple[int, ...], extents: list[int]
) -> Matrices:
    """A function that contracts arrays of these shapes by one batched product of matrices."""
    loops = range(len(extents))
    shapes = [(1,) * (len(extents) - x.ndim) + x.shape for x in (a, b)]
    # A loop that only one factor follows, or none, and that is summed, is one that both follow.
    full = [
        tuple(extents[loop] if loop in reduced else shape[loop] for loop in loops)
        for shape in shapes
    ]
    has = [[loop for loop in loops if shape[loop] > 1] for shape in full]
    batch = [loop for loop in loops if loop in has[0] and loop in has[1] and loop not in reduced]
    rows = [loop for loop in has[0] if loop not in batch and loop not in reduced]
    columns = [loop for loop in has[1] if loop not in batch and loop not in reduced]
    inner = list(reduced)

    def size(chosen: list[int]) -> int:
        return math.prod(extents[loop] for loop in chosen)

    order = [*batch, *rows, *columns]
    shape = [extents[loop] for loop in order]
    ones = [loop for loop in loops if loop not in order]

    def pack(x: np.ndarray, number: int, first: list[int], second: list[int]) -> np.ndarray:
        whole = np.broadcast_to(x.reshape(shapes[number]), full[number])
        chosen = [*batch, *first, *second]
        rest = [loop for loop in loops if loop not in chosen]
        moved = whole.transpose([*chosen, *rest])
        packed = np.ascontiguousarray(moved, np.float64)
        return packed.reshape(size(batch), size(first), size(second))

    def multiply(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        product = np.matmul(pack(x, 0, rows, inner), pack(y, 1, inner, columns))
        spread = product.reshape([*shape, *[1] * len(ones)])
        where = [*order, *ones]
        return spread.transpose([where.index(loop) for loop in loops])

    return multiply
