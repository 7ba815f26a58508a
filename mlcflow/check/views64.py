"""What each loop of a ``linalg.generic`` finds in an operand: an array whose axes are the loops."""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import as_strided

from mlcflow.check.bounds import Number
from mlcflow.check.conversions import Unsupported
from mlcflow.mlir import ir

LARGEST = 1 << 27
"""Elements of an intermediate array; a generic that needs more is not evaluated."""


def view(number: Number, affine_map: ir.AffineMap, extents: list[int]) -> Number:
    """The operand with an axis for each loop, of size 1 for loops that it does not follow."""
    terms = [_linear(each, len(extents)) for each in affine_map.results]
    used = [loop for each in terms for loop in each[0]]
    if len(set(used)) != len(used) or any(f < 0 for each in terms for f in each[0].values()):
        return number.map(lambda array: _gather(array, terms, extents))

    def windows(array: np.ndarray) -> np.ndarray:
        if not terms:
            return np.reshape(array, (1,) * len(extents))
        shape, strides = [1] * len(extents), [0] * len(extents)
        start = [constant for _, constant in terms]
        for axis, (factors, _) in enumerate(terms):
            for loop, factor in factors.items():
                shape[loop] = extents[loop]
                strides[loop] = array.strides[axis] * factor
        if 0 in shape or array.size == 0:
            return np.zeros(shape, array.dtype)
        first = array[tuple(slice(at, None) for at in start)]
        return as_strided(first, shape, strides, writeable=False)

    return number.map(windows)


def _linear(expression: ir.AffineExpr, loops: int) -> tuple[dict[int, int], int]:
    """The factor of each loop, and the constant."""
    if isinstance(expression, ir.AffineDimExpr):
        return {expression.position: 1}, 0
    if isinstance(expression, ir.AffineConstantExpr):
        return {}, expression.value
    if isinstance(expression, ir.AffineAddExpr):
        left, right = _linear(expression.lhs, loops), _linear(expression.rhs, loops)
        both = {k: left[0].get(k, 0) + right[0].get(k, 0) for k in {*left[0], *right[0]}}
        return both, left[1] + right[1]
    if isinstance(expression, ir.AffineMulExpr):
        left, right = _linear(expression.lhs, loops), _linear(expression.rhs, loops)
        if left[0] and right[0]:
            raise Unsupported(f"linalg.generic: an operand at {expression}")
        (factors, constant), by = (left, right[1]) if left[0] else (right, left[1])
        return {loop: factor * by for loop, factor in factors.items()}, constant * by
    raise Unsupported(f"linalg.generic: an operand at {expression}")


def _gather(array: np.ndarray, terms: list, extents: list[int]) -> np.ndarray:
    depth = len(extents)
    used = {loop for factors, _ in terms for loop in factors}
    shape = [extent if loop in used else 1 for loop, extent in enumerate(extents)]
    if math.prod(shape) > LARGEST:
        raise Unsupported("linalg.generic: too large to be evaluated in float64")
    index = []
    for factors, constant in terms:
        at = np.full((1,) * depth, constant)
        for loop, factor in factors.items():
            at = at + factor * steps(loop, extents)
        index.append(np.broadcast_to(at, shape))
    return array[tuple(index)] if index else array.reshape((1,) * depth)


def steps(loop: int, extents: list[int]) -> np.ndarray:
    """The number of each iteration of ``loop``, along its axis."""
    shape = [1] * len(extents)
    shape[loop] = extents[loop]
    return np.arange(extents[loop], dtype=np.int64).reshape(shape)
