"""Tensor functions: what they compute, against numpy and against themselves as plain Python."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mlcflow
from mlcflow import language as T
from mlcflow.graph.linalg_ops import is_linalg
from mlcflow.mlir import linalg, walk

M, N, K = 12, 20, 32


@mlcflow.tensor_function
def vector_add(A: T.Tensor((N,), "float32"), B: T.Tensor((N,), "float32")):
    C = T.empty((N,), "float32")
    for i in T.spatial(N):
        C[i] = A[i] + B[i]
    return C


@mlcflow.tensor_function
def matmul(A: T.Tensor((M, K), "float32"), B: T.Tensor((K, N), "float32")):
    C = T.empty((M, N), "float32")
    for i, j, k in T.grid(M, N, T.reduce(K)):
        with T.init():
            C[i, j] = 0.0
        C[i, j] += A[i, k] * B[k, j]
    return C


@mlcflow.tensor_function
def linear_relu(
    X: T.Tensor((M, K), "float32"),
    W: T.Tensor((N, K), "float32"),
    b: T.Tensor((N,), "float32"),
):
    """The weight is transposed, as PyTorch has it."""
    Y = T.empty((M, N), "float32")
    Z = T.empty((M, N), "float32")
    for i, j in T.grid(M, N):
        Y[i, j] = 0.0
        for k in T.reduce(K):
            Y[i, j] += X[i, k] * W[j, k]
    for i, j in T.grid(M, N):
        Z[i, j] = max(Y[i, j] + b[j], 0.0)
    return Z


@mlcflow.tensor_function
def softmax(X: T.Tensor(("n", K), "float32")):
    n = X.shape[0]
    largest = T.empty((n,), "float32")
    total = T.empty((n,), "float32")
    Y = T.empty((n, K), "float32")
    for i in T.spatial(n):
        largest[i] = -T.inf
        for k in T.reduce(K):
            largest[i] = max(largest[i], X[i, k])
        total[i] = 0.0
        for k in T.reduce(K):
            total[i] += T.exp(X[i, k] - largest[i])
        for k in T.spatial(K):
            Y[i, k] = T.exp(X[i, k] - largest[i]) / total[i]
    return Y


def conv(stride: int) -> mlcflow.language.Tensor:
    out = (10 - 3) // stride + 1

    @mlcflow.tensor_function
    def conv3x3(X: T.Tensor((2, 3, 10, 10), "float32"), W: T.Tensor((4, 3, 3, 3), "float32")):
        Y = T.empty((2, 4, out, out), "float32")
        for n, o, h, w in T.grid(2, 4, out, out):
            Y[n, o, h, w] = 0.0
            for c, r, s in T.grid(T.reduce(3), T.reduce(3), T.reduce(3)):
                Y[n, o, h, w] += X[n, c, h * stride + r, w * stride + s] * W[o, c, r, s]
        return Y

    return conv3x3


def arrays(function: mlcflow.tensor_function, seed: int = 0, **sizes: int) -> list[np.ndarray]:
    """Random arguments of a tensor function; ``sizes`` are those it leaves open."""
    random = np.random.default_rng(seed)
    found = []
    for kind in function.program.arguments.values():
        shape = [size if isinstance(size, int) else sizes[size.name] for size in kind.shape]
        values = random.standard_normal(shape) * (1 if "float" in kind.dtype else 8)
        found.append(values.astype(np.dtype(kind.dtype)))
    return found


def names(function: mlcflow.tensor_function) -> list[str]:
    """The linalg operations of the module, in order."""
    module = function.module
    return [op.operation.name for op in walk(module.operation) if is_linalg(op)]


def check(function: mlcflow.tensor_function, pipeline: str, *inputs: np.ndarray) -> None:
    """Compiled, the function gives what it gives as plain Python."""
    expected = function.python(*inputs)
    actual = mlcflow.compile(function, pipeline=pipeline)(*inputs)
    for one, other in zip(
        actual if isinstance(actual, tuple) else (actual,),
        expected if isinstance(expected, tuple) else (expected,),
        strict=True,
    ):
        assert one.dtype == other.dtype and one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


def test_vector_add(pipeline: str) -> None:
    a, b = arrays(vector_add)
    exe = mlcflow.compile(vector_add, pipeline=pipeline)
    np.testing.assert_array_equal(exe(a, b), a + b)
    assert [port.name for port in exe.inputs] == ["A", "B"]
    assert [port.name for port in exe.outputs] == ["C"]


def test_matmul_is_named(pipeline: str) -> None:
    assert names(matmul) == ["linalg.fill", "linalg.matmul"]
    a, b = arrays(matmul)
    result = mlcflow.compile(matmul, pipeline=pipeline)(a, b)
    np.testing.assert_allclose(result, a @ b, rtol=1e-5, atol=1e-5)


def test_linear_relu(pipeline: str) -> None:
    assert names(linear_relu) == ["linalg.fill", "linalg.matmul", "linalg.generic"]
    x, w, b = arrays(linear_relu)
    result = mlcflow.compile(linear_relu, pipeline=pipeline)(x, w, b)
    np.testing.assert_allclose(result, np.maximum(x @ w.T + b, 0), rtol=1e-5, atol=1e-5)


def test_softmax_with_an_open_size(pipeline: str) -> None:
    exe = mlcflow.compile(softmax, pipeline=pipeline)
    for rows in (1, 5):
        (x,) = arrays(softmax, n=rows)
        powers = np.exp(x - x.max(1, keepdims=True))
        expected = powers / powers.sum(1, keepdims=True)
        np.testing.assert_allclose(exe(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_is_named(pipeline: str, stride: int) -> None:
    import torch

    function = conv(stride)
    assert names(function) == ["linalg.fill", "linalg.conv_2d_nchw_fchw"]
    x, w = arrays(function)
    expected = torch.conv2d(torch.from_numpy(x), torch.from_numpy(w), stride=stride).numpy()
    result = mlcflow.compile(function, pipeline=pipeline)(x, w)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_called_directly_and_by_name() -> None:
    a, b = arrays(vector_add)
    np.testing.assert_array_equal(vector_add(a, b), a + b)
    np.testing.assert_array_equal(vector_add(B=b, A=a), a + b)
    with pytest.raises(mlcflow.ExecutionError, match="missing a required argument"):
        vector_add(A=a)
    assert repr(vector_add) == (
        "<tensor function vector_add(A: float32[20], B: float32[20]) -> float32[20]>"
    )
    assert vector_add.source.startswith("@mlcflow.tensor_function\ndef vector_add(")


def test_a_schedule_may_change_its_module() -> None:
    module = matmul.module
    module.body.operations[0].operation.erase()
    assert "linalg.matmul" in str(matmul.module)


def test_locations_are_those_of_the_source() -> None:
    module = matmul.module
    product = next(op for op in walk(module.operation) if "matmul" in op.operation.name)
    line = next(
        number
        for number, text in enumerate(Path(__file__).read_text().splitlines(), 1)
        if "C[i, j] += A[i, k] * B[k, j]" in text
    )
    assert f'{__file__}":{line}:' in str(product.location)


def test_loops_of_every_order_give_the_same_matmul(pipeline: str) -> None:
    @mlcflow.tensor_function
    def reordered(A: T.Tensor((M, K), "float32"), B: T.Tensor((K, N), "float32")):
        C = T.empty((M, N), "float32")
        for j, i in T.grid(N, M):
            C[i, j] = 0.0
        for k, j in T.grid(T.reduce(K), N):
            for i in range(M):
                C[i, j] = B[k, j] * A[i, k] + C[i, j]
        return C

    found = [op for op in walk(reordered.module.operation) if is_linalg(op)]
    assert linalg.isa_contraction_op(found[1].operation)
    check(reordered, pipeline, *arrays(reordered))


def test_transposes_and_reversal(pipeline: str) -> None:
    @mlcflow.tensor_function
    def transpose(A: T.Tensor((2, 3, 4), "float32")):
        B = T.empty((4, 2, 3), "float32")
        C = T.empty((3, 2, 4), "float32")
        for i, j, k in T.grid(2, 3, 4):
            B[k, i, j] = A[i, j, k]
            C[j, i, k] = A[i, j, 3 - k]
        return B, C

    (a,) = arrays(transpose)
    b, c = mlcflow.compile(transpose, pipeline=pipeline)(a)
    np.testing.assert_array_equal(b, a.transpose(2, 0, 1))
    np.testing.assert_array_equal(c, a.transpose(1, 0, 2)[:, :, ::-1])


def test_reductions_of_rows_and_of_everything(pipeline: str) -> None:
    @mlcflow.tensor_function
    def reductions(A: T.Tensor((M, K), "float32"), B: T.Tensor((M, K), "int32")):
        mean = T.empty((M,), "float32")
        smallest = T.empty((K,), "int32")
        total = T.empty((), "float32")
        anything = T.empty((M,), "bool")
        for i, k in T.grid(M, T.reduce(K)):
            with T.init():
                mean[i] = 0.0
                anything[i] = False
            mean[i] += A[i, k] / K
            anything[i] = anything[i] | (A[i, k] > 2.0)
        for k in T.spatial(K):
            smallest[k] = B[0, k]
            for i in T.reduce(M):
                smallest[k] = min(B[i, k], smallest[k])
        total[()] = 1.0
        for i, k in T.grid(M, K):
            total[()] -= A[i, k] * A[i, k]
        return mean, smallest, total, anything

    a, i = arrays(reductions)
    mean, smallest, total, anything = mlcflow.compile(reductions, pipeline=pipeline)(a, i)
    np.testing.assert_allclose(mean, a.mean(1), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(smallest, i.min(0))
    np.testing.assert_allclose(total, 1 - (a * a).sum(), rtol=1e-5)
    np.testing.assert_array_equal(anything, (a > 2).any(1))


def test_pooling_has_a_window(pipeline: str) -> None:
    @mlcflow.tensor_function
    def pool(X: T.Tensor((1, 2, 8, 8), "float32")):
        Y = T.empty((1, 2, 4, 4), "float32")
        for n, c, h, w, r, s in T.grid(1, 2, 4, 4, T.reduce(2), T.reduce(2)):
            with T.init():
                Y[n, c, h, w] = -T.inf
            Y[n, c, h, w] = max(Y[n, c, h, w], X[n, c, h * 2 + r, w * 2 + s])
        return Y

    assert names(pool) == ["linalg.fill", "linalg.pooling_nchw_max"]
    (x,) = arrays(pool)
    expected = x.reshape(1, 2, 4, 2, 4, 2).max((3, 5))
    np.testing.assert_array_equal(mlcflow.compile(pool, pipeline=pipeline)(x), expected)


def test_parts_of_buffers(pipeline: str) -> None:
    """Padding, concatenation, strides, single rows: writes of parts, reads of parts."""

    @mlcflow.tensor_function
    def parts(A: T.Tensor((4, 6), "float32"), B: T.Tensor((6,), "float32")):
        padded = T.empty((6, 8), "float32")
        stacked = T.empty((5, 6), "float32")
        woven = T.empty((12,), "float32")
        inner = T.empty((2, 3), "float32")
        for i, j in T.grid(6, 8):
            padded[i, j] = 0.0
        for i, j in T.grid(4, 6):
            padded[i + 1, j + 1] = A[i, j]
        for i, j in T.grid(4, 6):
            stacked[i, j] = A[i, j]
        for j in T.spatial(6):
            stacked[4, j] = B[j]
            woven[2 * j] = A[0, j]
            woven[2 * j + 1] = B[j]
        for i, j in T.grid(2, 3):
            inner[i, j] = A[i + 1, 2 * j] + padded[i, j + 2]
        return padded, stacked, woven, inner

    check(parts, pipeline, *arrays(parts))


def test_accumulating_into_a_part(pipeline: str) -> None:
    @mlcflow.tensor_function
    def columns(A: T.Tensor((4, 6), "float32")):
        S = T.empty((2, 6), "float32")
        for i, j in T.grid(2, 6):
            S[i, j] = 0.5
        for j, k in T.grid(6, T.reduce(4)):
            S[1, j] += A[k, j]
        for j in T.spatial(6):
            S[0, j] *= 2.0
        return S

    check(columns, pipeline, *arrays(columns))


def test_two_accumulations_into_one_element(pipeline: str) -> None:
    @mlcflow.tensor_function
    def sums(A: T.Tensor((4, 6), "float32"), B: T.Tensor((6,), "float32")):
        S = T.empty((4,), "float32")
        for i in T.spatial(4):
            S[i] = 0.0
            for k in T.reduce(6):
                square = A[i, k] ** 2
                S[i] += square
                S[i] -= square * B[k]
        return S

    check(sums, pipeline, *arrays(sums))


def test_merged_dimensions(pipeline: str) -> None:
    @mlcflow.tensor_function
    def flatten(A: T.Tensor((2, 3, 4), "float32")):
        F = T.empty((2, 12), "float32")
        S = T.empty((6,), "float32")
        for n, c, h in T.grid(2, 3, 4):
            F[n, c * 4 + h] = A[n, c, h]
        for n, c in T.grid(2, 3):
            S[n * 3 + c] = 1.0
            for h in T.reduce(4):
                S[n * 3 + c] += F[n, h + 4 * c]
        return F, S

    check(flatten, pipeline, *arrays(flatten))


def test_functions_of_elements(pipeline: str) -> None:
    @mlcflow.tensor_function
    def functions(A: T.Tensor((8,), "float32")):
        B = T.empty((8,), "float32")
        C = T.empty((8,), "float32")
        D = T.empty((8,), "float32")
        for i in T.spatial(8):
            x = abs(A[i]) + 0.5
            B[i] = T.exp(-x) + T.sqrt(x) * T.tanh(x) + T.log(x) + math.sin(x) + np.cos(x)
            C[i] = T.erf(x) + T.floor(A[i]) - T.ceil(x) + T.rsqrt(x) + x**2 + x**-0.5 + T.log1p(x)
            D[i] = A[i] if (A[i] > 0.0 and i < 6) or not i >= 2 else T.select(x <= 1.0, x, -1.0)
        return B, C, D

    (a,) = arrays(functions)
    b, c, d = mlcflow.compile(functions, pipeline=pipeline)(a)
    x = np.abs(a) + np.float32(0.5)
    erf = np.vectorize(math.erf)
    np.testing.assert_allclose(
        b, np.exp(-x) + np.sqrt(x) * np.tanh(x) + np.log(x) + np.sin(x) + np.cos(x), rtol=1e-5
    )
    expected = erf(x) + np.floor(a) - np.ceil(x) + 2 / np.sqrt(x) + x * x + np.log1p(x)
    np.testing.assert_allclose(c, expected, rtol=1e-5, atol=1e-5)
    kept = ((a > 0) & (np.arange(8) < 6)) | (np.arange(8) < 2)
    np.testing.assert_array_equal(d, np.where(kept, a, np.where(x <= 1, x, -1)))


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "uint32"])
def test_integers(pipeline: str, dtype: str) -> None:
    @mlcflow.tensor_function
    def integers(A: T.Tensor((16,), dtype), B: T.Tensor((16,), dtype)):
        quotient = T.empty((16,), dtype)
        rest = T.empty((16,), dtype)
        bits = T.empty((16,), dtype)
        larger = T.empty((16,), dtype)
        as_float = T.empty((16,), "float32")
        for i in T.spatial(16):
            quotient[i] = A[i] // B[i]
            rest[i] = A[i] % B[i]
            bits[i] = (A[i] & 12) | (B[i] ^ 3) | (A[i] >> 1)
            larger[i] = max(A[i], B[i]) if A[i] < B[i] else ~A[i]
            as_float[i] = T.cast(A[i], "float32") * 0.5 + i
        return quotient, rest, bits, larger, as_float

    low = -100 if dtype.startswith("int") else 0
    a = np.linspace(low, 100, 16).astype(dtype)
    b = np.array([3, 7, 2, 5] * 4).astype(dtype)
    b = b * np.array([1, -1] * 8).astype(dtype) if dtype.startswith("int") else b
    check(integers, pipeline, a, b)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_floats(pipeline: str, dtype: str) -> None:
    @mlcflow.tensor_function
    def scaled(A: T.Tensor((8, 4), dtype)):
        B = T.empty((8, 4), dtype)
        for i, j in T.grid(8, 4):
            B[i, j] = T.cast(T.cast(A[i, j], "float32") * 3.0, dtype) + 0.25
        return B

    a = np.arange(32).reshape(8, 4).astype(T.NUMPY[dtype])
    result = mlcflow.compile(scaled, pipeline=pipeline)(a)
    np.testing.assert_array_equal(result, (a * 3 + 0.25).astype(a.dtype))


def test_indices_and_open_sizes_are_numbers(pipeline: str) -> None:
    @mlcflow.tensor_function
    def numbers(A: T.Tensor(("n", 3), "float32")):
        n, m = A.shape
        B = T.empty((n, m), "float32")
        for i, j in T.grid(n, m):
            B[i, j] = A[i, j] / n + (i * m + j) - 2 * j
        return B

    (a,) = arrays(numbers, n=4)
    expected = a / 4 + np.arange(12).reshape(4, 3) - 2 * np.arange(3)
    result = mlcflow.compile(numbers, pipeline=pipeline)(a)
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_a_buffer_is_updated_in_place(pipeline: str) -> None:
    @mlcflow.tensor_function
    def update(A: T.Tensor((8,), "float32")):
        B = T.empty((8,), "float32")
        for i in T.spatial(8):
            B[i] = A[i] * 2.0
        for i in T.spatial(8):
            B[i] = B[i] * B[i] + 1.0
            B[i] /= 4.0
        return B

    check(update, pipeline, *arrays(update))


def test_brackets_and_numpy_types() -> None:
    kind = T.Tensor[(4, "n"), np.float32]
    assert kind == T.Tensor((4, "n"), "float32") and str(kind) == "float32[4, n]"
    for wrong in [lambda: T.Tensor((4,), "float33"), lambda: T.Tensor((0,), "float32")]:
        with pytest.raises(mlcflow.MlcflowError):
            wrong()


EINSUMS = [
    ("C[i, j] += A[i, k] * B[k, j]", "ik,kj->ij", [(5, 6), (6, 7)]),
    ("C[b, i, j] += A[b, i, k] * B[b, j, k]", "bik,bjk->bij", [(2, 3, 4), (2, 5, 4)]),
    ("s[()] += A[i] * B[i]", "i,i->", [(9,), (9,)]),
    ("C[i] += A[i, k] * B[k]", "ik,k->i", [(4, 6), (6,)]),
    ("C[j, i] = A[i] * B[j]", "i,j->ji", [(4,), (3,)]),
]


@pytest.mark.parametrize(("text", "equation", "shapes"), EINSUMS)
def test_einsum(pipeline: str, text: str, equation: str, shapes: list) -> None:
    types = {name: (shape, "float64") for name, shape in zip("AB", shapes, strict=True)}
    function = mlcflow.einsum_function(text, **types)
    a, b = arrays(function)
    result = mlcflow.compile(function, pipeline=pipeline)(a, b)
    np.testing.assert_allclose(result, np.einsum(equation, a, b), rtol=1e-12)
    assert function.source == text


def test_einsum_finds_extents_types_and_initial_values() -> None:
    conv1d = mlcflow.einsum_function(
        "Y[o, h] += X[c, 2 * h + r] * W[o, c, r]",
        X=((3, 9), "float32"),
        W=T.Tensor((4, 3, 3), "float32"),
    )
    assert conv1d.program.buffers["Y"] == T.Tensor((4, 4), "float32")
    rows = np.arange(-12, 0, dtype=np.int32).reshape(3, 4)
    for word, expected in [("max", rows.max(1)), ("min", rows.min(1))]:
        function = mlcflow.einsum_function(f"Y[i] = {word}(Y[i], X[i, j])", X=(("n", 4), "int32"))
        np.testing.assert_array_equal(function(rows), expected)
    compared = mlcflow.einsum_function("Y[i] = X[i] > 0", X=((3,), "float32"))
    assert compared.program.buffers["Y"].dtype == "bool"


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    sizes=st.tuples(*[st.integers(1, 20)] * 3),
    transposed=st.tuples(st.booleans(), st.booleans()),
    initial=st.floats(-2, 2, width=32),
    seed=st.integers(0, 9),
)
def test_any_matmul_with_epilogue(
    pipeline: str,
    sizes: tuple[int, int, int],
    transposed: tuple[bool, bool],
    initial: float,
    seed: int,
) -> None:
    m, n, k = sizes
    of_a = (k, m) if transposed[0] else (m, k)
    of_b = (n, k) if transposed[1] else (k, n)

    @mlcflow.tensor_function
    def product(A: T.Tensor(of_a, "float32"), B: T.Tensor(of_b, "float32")):
        C = T.empty((m, n), "float32")
        D = T.empty((m, n), "float32")
        for i, j in T.grid(m, n):
            C[i, j] = initial
            for r in T.reduce(k):
                a = A[r, i] if transposed[0] else A[i, r]
                C[i, j] += a * (B[j, r] if transposed[1] else B[r, j])
        for i, j in T.grid(m, n):
            D[i, j] = T.tanh(C[i, j]) if C[i, j] > 0 else C[i, j]
        return D

    a, b = arrays(product, seed)
    c = (a.T if transposed[0] else a) @ (b.T if transposed[1] else b) + initial
    result = mlcflow.compile(product, pipeline=pipeline)(a, b)
    np.testing.assert_allclose(result, np.where(c > 0, np.tanh(c), c), rtol=1e-4, atol=1e-4)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
    taps=st.integers(1, 4),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    surplus=st.integers(0, 20),
)
def test_any_convolution(
    pipeline: str,
    stride: int,
    dilation: int,
    taps: int,
    channels: tuple[int, int],
    surplus: int,
) -> None:
    length = (taps - 1) * dilation + 1 + surplus
    out, inner = channels
    function = mlcflow.einsum_function(
        f"Y[o, h] += W[o, c, r] * X[c, {stride} * h + r * {dilation}]",
        X=((inner, length), "float64"),
        W=((out, inner, taps), "float64"),
    )
    x, w = arrays(function)
    reach = surplus // stride + 1
    windows = np.stack(
        [x[:, r * dilation :][:, : surplus + 1 : stride] for r in range(taps)], axis=-1
    )
    assert function.program.buffers["Y"].shape == (out, reach)
    result = mlcflow.compile(function, pipeline=pipeline)(x, w)
    np.testing.assert_allclose(result, np.einsum("ocr,chr->oh", w, windows), rtol=1e-10)
