"""Modules printed as tensor functions, and read again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mlcflow
from mlcflow import LoweringError, MlcflowError, mlir
from mlcflow import language as T
from mlcflow.graph.outline import kernels


def same(text: str, *inputs: np.ndarray) -> None:
    """The function of the text gives what its printed form gives."""
    first = mlcflow.from_python(text)
    second = mlcflow.from_python(mlcflow.to_python(first.module))
    left = mlcflow.compile(first, pipeline="reference")(*inputs)
    right = mlcflow.compile(second, pipeline="reference")(*inputs)
    for one, other in zip(
        left if isinstance(left, tuple) else (left,),
        right if isinstance(right, tuple) else (right,),
        strict=True,
    ):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_linear_relu_reads_like_one_writes_it() -> None:
    @mlcflow.tensor_function
    def linear_relu(A: T.Tensor((16, 32), "float32"), B: T.Tensor((32, 24), "float32")):
        C = T.empty((16, 24), "float32")
        Y = T.empty((16, 24), "float32")
        for i, j in T.grid(16, 24):
            C[i, j] = 0.0
            for k in T.reduce(32):
                C[i, j] += A[i, k] * B[k, j]
        for i, j in T.grid(16, 24):
            Y[i, j] = max(C[i, j] - 1, 0)
        return Y

    assert (
        mlcflow.to_python(linear_relu)
        == """import mlcflow
from mlcflow import language as T


@mlcflow.tensor_function
def main(A: T.Tensor((16, 32), "float32"), B: T.Tensor((32, 24), "float32")):
    buffer = T.empty((16, 24), "float32")
    for i, j in T.grid(16, 24):
        buffer[i, j] = 0.0
    for i, j, k in T.grid(16, 24, T.reduce(32)):
        buffer[i, j] += A[i, k] * B[k, j]
    Y = T.empty((16, 24), "float32")
    for i, j in T.grid(16, 24):
        Y[i, j] = T.maximum(buffer[i, j] - 1.0, 0.0)
    return Y
"""
    )


HEAD = 'from mlcflow import language as T\ndef f(A: T.Tensor((6, 8), "float32")):\n'
PROGRAMS = {
    "open sizes": """
        n = A.shape[0]
        R = T.empty((n,), "float32")
        for i in T.spatial(n):
            R[i] = T.inf
            for k in T.reduce(8):
                R[i] = min(R[i], A[i, k] / n + i)
        return R
    """,
    "parts": """
        P = T.empty((8, 8), "float32")
        for i, j in T.grid(8, 8):
            P[i, j] = -1.0
        for i, j in T.grid(6, 4):
            P[i + 1, 2 * j] = A[i, 2 * j + 1] + A[5 - i, 0]
        for j in T.spatial(8):
            P[0, j] += A[1, j]
        return P
    """,
    "two results and shared values": """
        B = T.empty((6, 8), "float32")
        C = T.empty((6, 8), "bool")
        D = T.empty((), "float32")
        D[()] = 2.5
        for i, j in T.grid(6, 8):
            t = A[i, j] * A[i, j]
            B[i, j] = (t + T.sqrt(t) * t if t < 0.5 or not A[i, j] > 0.1 else -t) / D[()]
            C[i, j] = A[i, j] != 0.5 and i >= j
        return B, C, D
    """,
    "casts": """
        B = T.empty((6, 8), "int32")
        C = T.empty((6, 8), "float64")
        for i, j in T.grid(6, 8):
            B[i, j] = T.cast(A[i, j] * 10.0, "int32") // 3 % 2 + T.cast(A[i, j] > 0.0, "int32")
            C[i, j] = T.cast(A[i, j], "float64") * i + T.cast(T.cast(j, "int8"), "float64")
        return B, C
    """,
    "constants": """
        B = T.empty((6, 8), "float32")
        C = T.empty((3,), "int64")
        for i, j in T.grid(6, 8):
            B[i, j] = T.nan
        for i in T.spatial(3):
            C[i] = -7
        return B, C
    """,
    "merged dimensions": """
        F = T.empty((48,), "float32")
        G = T.empty((4, 12), "float32")
        S = T.empty((16,), "float32")
        for i, j in T.grid(6, 8):
            F[i * 8 + j] = A[i, j]
        for a, b, c in T.grid(2, 2, 12):
            G[b + 2 * a, c] = F[a * 24 + b * 12 + c]
        for i, j, k in T.grid(2, 8, T.reduce(3)):
            with T.init():
                S[i * 8 + j] = 0.0
            S[i * 8 + j] += A[i * 3 + k, j]
        return F, G, S
    """,
    "shifts": """
        W = T.empty((3, 3), "float32")
        Y = T.empty((4, 3), "float32")
        for i, j in T.grid(3, 3):
            W[i, j] = i - j
        for h, w, r, s in T.grid(4, 3, T.reduce(3), T.reduce(3)):
            with T.init():
                Y[h, w] = 1.0
            Y[h, w] += A[h + r, w * 2 + s] * W[r, s]
        return Y
    """,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_round_trip(name: str) -> None:
    a = np.random.default_rng(1).standard_normal((6, 8)).astype(np.float32)
    head = HEAD.replace("(6, 8)", '("rows", 8)') if name == "open sizes" else HEAD
    same(head + PROGRAMS[name], a)


OPERANDS = ("A[i, j]", "B[j]", "A[5 - i, j]", "A[i, 3]", "0.5", "-2.0", "i", "(j - 2 * i)")
VALUES = st.recursive(
    st.sampled_from(OPERANDS),
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner),
        st.builds("T.{}({}, {})".format, st.sampled_from(["maximum", "minimum"]), inner, inner),
        st.builds("T.{}({})".format, st.sampled_from(["tanh", "abs", "sin", "floor"]), inner),
        st.builds(
            "({} if {} {} {} else {})".format,
            inner,
            inner,
            st.sampled_from(["<", "<=", "!=", "=="]),
            inner,
            inner,
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(first=VALUES, second=VALUES, combine=st.sampled_from(["+=", "*=", "-="]))
def test_round_trip_of_any_expression(first: str, second: str, combine: str) -> None:
    text = f"""\
from mlcflow import language as T
def f(A: T.Tensor((6, 8), "float32"), B: T.Tensor((8,), "float32")):
    C = T.empty((6, 8), "float32")
    S = T.empty((6,), "float32")
    for i, j in T.grid(6, 8):
        C[i, j] = {first}
    for i in T.spatial(6):
        S[i] = 1.0
        for j in T.reduce(8):
            S[i] {combine} {second} + C[i, j]
    return C, S
"""
    random = np.random.default_rng(0)
    with np.errstate(all="ignore"):
        same(text, *(random.standard_normal(s).astype(np.float32) for s in [(6, 8), (8,)]))


class Network(torch.nn.Module):
    """Convolution, pooling, normalisation, softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 2, 3, padding=1)
        self.norm = torch.nn.LayerNorm(4)
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.max_pool2d(torch.relu(self.conv(x)), 2)
        x = self.linear(torch.nn.functional.gelu(self.norm(x)))
        return x / (1 + x.abs()).sum(-1, keepdim=True)


def test_a_torch_model_as_a_tensor_function() -> None:
    torch.manual_seed(0)
    model, x = Network(), torch.randn(1, 1, 8, 8)
    exe = mlcflow.compile(model, x)
    function = mlcflow.from_python(mlcflow.to_python(exe.stages["simplify"]))
    parameters = {name.replace(".", "_"): value for name, value in model.named_parameters()}
    with torch.no_grad():
        torch.testing.assert_close(function(x=x, **parameters), model(x), rtol=1e-5, atol=1e-5)


def test_reshapes() -> None:
    class Reshapes(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.view(1, 12).unsqueeze(1) * 2
            return y.view(1, 1, 3, 4).permute(0, 3, 2, 1).flatten() + x.flatten()

    x = torch.randn(1, 3, 4)
    exe = mlcflow.compile(Reshapes(), x)
    for stage in ("simplify", "kernels"):
        function = mlcflow.from_python(mlcflow.to_python(exe.stages[stage]))
        torch.testing.assert_close(function(x), exe(x))


def test_kernels_by_name() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU())
    exe = mlcflow.compile(model, torch.ones(2, 8))
    module = exe.stages["kernels"]
    names = [kernel.name.value for kernel in kernels(module)]
    texts = [mlcflow.to_python(module, function=name) for name in names]
    assert all(f"def {name}(" in text for name, text in zip(names, texts, strict=True))
    assert any("T.reduce(8)" in text for text in texts)
    assert "T.reduce(8)" in mlcflow.to_python(module)  # with its kernels inlined


def test_what_python_cannot_say_is_listed() -> None:
    module = mlir.parse("""
        func.func @main(%x: tensor<4xf32>, %i: tensor<4xindex>, %m: memref<4xf32>)
            -> (tensor<4xf32>, tensor<2x2xf32>, tensor<2x2xf32>) {
          %e = tensor.empty() : tensor<4xf32>
          %y = linalg.generic {
              indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>],
              iterator_types = ["parallel"]}
              ins(%i : tensor<4xindex>) outs(%e : tensor<4xf32>) {
          ^bb0(%n: index, %out: f32):
            %v = tensor.extract %x[%n] : tensor<4xf32>
            linalg.yield %v : f32
          } -> tensor<4xf32>
          %c = arith.constant dense<[[1.0, 2.0], [3.0, 4.0]]> : tensor<2x2xf32>
          %s = tensor.generate {
          ^bb0(%a: index, %b: index):
            %z = arith.constant 0.0 : f32
            tensor.yield %z : f32
          } : tensor<2x2xf32>
          return %y, %c, %s : tensor<4xf32>, tensor<2x2xf32>, tensor<2x2xf32>
        }""")
    with pytest.raises(LoweringError) as caught:
        mlcflow.to_python(module)
    for part in [
        "argument 'arg2' of type memref<4xf32>",
        "tensor.extract",
        "a constant of type tensor<2x2xf32> with different elements",
        "tensor.generate",
    ]:
        assert part in str(caught.value)


def test_no_such_function() -> None:
    module = mlir.parse("func.func @main() { return }")
    with pytest.raises(MlcflowError, match="unknown function 'man'; did you mean 'main'"):
        mlcflow.to_python(module, function="man")
