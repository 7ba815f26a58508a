"""Any shape, any element type: compiled functions agree with numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, mutually_broadcastable_shapes

import mlcflow
from mlcflow.check.compare import compare

both = pytest.mark.parametrize("pipeline", ["reference", "cpu"])
FLOATS = st.sampled_from([np.float32, np.float64])
NUMBERS = st.sampled_from([np.float32, np.float64, np.int64, np.int32, np.int8])
SIZES = st.integers(1, 40)


def random(shape: tuple[int, ...], dtype: Any, seed: int) -> np.ndarray:
    """Small numbers: whole ones for integers, so that no product overflows."""
    generator = np.random.default_rng(seed)
    if np.issubdtype(dtype, np.integer):
        return generator.integers(-3, 4, shape).astype(dtype)
    return generator.standard_normal(shape).astype(dtype)


def check(function: Any, arrays: list[np.ndarray], expected: np.ndarray, pipeline: str) -> None:
    """Compile ``function`` for the arrays; its results are ``expected``, in numpy and torch."""
    tensors = [torch.from_numpy(array) for array in arrays]
    executable = mlcflow.compile(function, *tensors, pipeline=pipeline, verify=False)
    compare([executable(*arrays)], [expected])
    compare([executable(*tensors)], [expected])


@both
@given(
    shapes=mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=9),
    dtype=NUMBERS,
    seed=st.integers(0, 99),
)
def test_elementwise_with_broadcasting(pipeline: str, shapes: Any, dtype: Any, seed: int) -> None:
    a, b = (random(shape, dtype, seed + i) for i, shape in enumerate(shapes.input_shapes))
    check(lambda x, y: x * y - x, [a, b], a * b - a, pipeline)


@both
@given(shape=array_shapes(min_dims=0, max_dims=4, max_side=20), dtype=FLOATS)
def test_functions_of_one_value(pipeline: str, shape: tuple[int, ...], dtype: Any) -> None:
    a = random(shape, dtype, 1)
    expected = np.tanh(a) + np.exp(-np.abs(a)) * np.maximum(a, 0)
    check(lambda x: torch.tanh(x) + torch.exp(-x.abs()) * torch.relu(x), [a], expected, pipeline)


@both
@given(data=st.data(), shape=array_shapes(min_dims=1, max_dims=4, max_side=20), dtype=FLOATS)
def test_reductions(pipeline: str, data: Any, shape: tuple[int, ...], dtype: Any) -> None:
    a = random(shape, dtype, 2)
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1).map(sorted), "axes")
    keep = data.draw(st.booleans(), "keepdim")
    kind = data.draw(st.sampled_from(["sum", "mean", "amax", "amin"]), "kind")
    numpy_name = {"amax": "max", "amin": "min"}.get(kind, kind)
    expected = getattr(a, numpy_name)(axis=tuple(axes), keepdims=keep)
    function = getattr(torch, kind)
    check(lambda x: function(x, dim=axes, keepdim=keep), [a], np.asarray(expected), pipeline)


@both
@given(shape=array_shapes(min_dims=1, max_dims=3, max_side=20), dtype=NUMBERS)
def test_sums_of_everything(pipeline: str, shape: tuple[int, ...], dtype: Any) -> None:
    a = random(shape, dtype, 3)
    wide = np.int64 if np.issubdtype(dtype, np.integer) else dtype  # as PyTorch has it
    check(lambda x: x.sum(), [a], np.asarray(a.sum(dtype=wide)), pipeline)


@both
@given(m=SIZES, n=SIZES, k=SIZES, dtype=FLOATS, transposed=st.booleans())
def test_products_of_matrices(
    pipeline: str, m: int, n: int, k: int, dtype: Any, transposed: bool
) -> None:
    a, b = random((m, k), dtype, 4), random((n, k) if transposed else (k, n), dtype, 5)
    if transposed:
        check(lambda x, y: x @ y.t(), [a, b], a @ b.T, pipeline)
    else:
        check(lambda x, y: x @ y, [a, b], a @ b, pipeline)


@both
@given(batch=array_shapes(min_dims=1, max_dims=2, max_side=4), m=SIZES, n=SIZES, k=SIZES)
def test_batches_of_products_with_an_epilogue(
    pipeline: str, batch: tuple[int, ...], m: int, n: int, k: int
) -> None:
    a, b = random((*batch, m, k), np.float32, 6), random((*batch, k, n), np.float32, 7)
    c = random((n,), np.float32, 8)
    check(lambda x, y, z: torch.relu(x @ y + z), [a, b, c], np.maximum(a @ b + c, 0), pipeline)
