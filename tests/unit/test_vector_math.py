"""Mathematical functions in pipeline ``cpu``: their errors, their edges, and no calls."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch

import mlcflow
from mlcflow.mlir import walk
from mlcflow.runtime.executable import Executable
from mlcflow.vector_math.bounds import AT_MOST_ZERO
from mlcflow.vector_math.expand import FUNCTIONS

COUNT = 1 << 18
EDGES = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1.1754942e-38, 1.17549435e-38, -1e-40,
     3.4028235e38, -3.4028235e38, 1.0, -1.0, 0.99999994, 1.0000001, -0.99999994, 2.0, 0.5,
     88.72283, 88.722839, 88.73, -87.33, -87.34, -103.9, -103.98, 128.0, 127.99999, -126.0, -149.0,
     -149.5, -150.5, 9.01, 9.02, 3.92, 3.93, -17.3, 1.5707964, 3.1415927, 6.2831855, 1e5, 1e15,
     2.6e22, 16367173 * 2.0**72, 1e-20, -3e-8],
    np.float32,
)  # fmt: skip

# In units in the last place, against double precision.
BOUNDS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], float]] = {
    "exp": (torch.exp, 1.0),
    "exp2": (torch.exp2, 1.0),
    "expm1": (torch.expm1, 2.0),
    "log": (torch.log, 1.0),
    "log1p": (torch.log1p, 2.0),
    "log2": (torch.log2, 2.0),
    "log10": (torch.log10, 2.0),
    "tanh": (torch.tanh, 3.0),
    "erf": (torch.erf, 2.0),
    "sin": (torch.sin, 2.0),
    "cos": (torch.cos, 2.0),
    "rsqrt": (torch.rsqrt, 2.0),
    "sqrt": (torch.sqrt, 0.5),
}


def module(operation: str, size: str, *, element: str = "f32", inputs: int = 1) -> str:
    """One function, element by element."""
    tensor = f"tensor<{size}x{element}>"
    names = ["%x", "%y"][:inputs]
    maps = ", ".join(["affine_map<(i) -> (i)>"] * (inputs + 1))
    empty = f"tensor.empty() : {tensor}"
    if size == "?":
        empty = f"tensor.empty(%n) : {tensor}"
    return f"""
func.func @main({", ".join(f"{name}: {tensor}" for name in names)}) -> {tensor} {{
  %zero = arith.constant 0 : index
  %n = tensor.dim %x, %zero : {tensor}
  %e = {empty}
  %r = linalg.generic {{indexing_maps = [{maps}], iterator_types = ["parallel"]}}
      ins({", ".join(names)} : {", ".join([tensor] * inputs)}) outs(%e : {tensor}) {{
  ^bb0({", ".join(f"{name}0: {element}" for name in names)}, %o: {element}):
    %v = math.{operation} {", ".join(f"{name}0" for name in names)} : {element}
    linalg.yield %v : {element}
  }} -> {tensor}
  return %r : {tensor}
}}"""


@functools.cache
def compiled(operation: str, size: str = str(COUNT), **options: object) -> Executable:
    return mlcflow.compile(module(operation, size, **options))  # type: ignore[arg-type]


@functools.cache
def samples() -> np.ndarray:
    """The edges, every exponent, and usual values."""
    rng = np.random.default_rng(0)
    half = COUNT // 2
    patterns = rng.integers(0, 1 << 32, half, dtype=np.uint64).astype(np.uint32)
    usual = rng.normal(0, 4, COUNT - half - EDGES.size).astype(np.float32)
    return np.concatenate([EDGES, usual, patterns.view(np.float32)])


def ulps(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """How many representable numbers the results are away from the exact ones."""
    with np.errstate(all="ignore"):
        rounded = exact.astype(np.float32)
        error = np.abs(got.astype(np.float64) - exact) / np.spacing(np.abs(rounded))
        same = (got == rounded) & (np.signbit(got) == np.signbit(rounded))
        same |= np.isnan(got) & np.isnan(rounded)
        edge = ~np.isfinite(rounded) | (rounded == 0)
        # Next to the largest and the smallest number: one step away is one ulp.
        near = np.nextafter(rounded, np.float32(0)) == got
        near |= (rounded == 0) & (np.abs(got) <= 1.5e-45) & (np.signbit(got) == np.signbit(exact))
    return np.where(edge, np.where(same, 0.0, np.where(near, 1.0, np.inf)), error)


@pytest.mark.parametrize("operation", BOUNDS)
def test_errors(operation: str) -> None:
    function, bound = BOUNDS[operation]
    x = samples()
    got = np.asarray(compiled(operation)(x))
    exact = function(torch.from_numpy(x).double()).numpy()
    error = ulps(got, exact)
    worst = np.nanargmax(np.where(np.isnan(error), np.inf, error))
    assert error[worst] <= bound, f"{operation}({x[worst]!r}) = {got[worst]!r}, {exact[worst]!r}"


def test_powers_of_two_below_one() -> None:
    """What softmax computes: 0 where the exact power is no normal number."""
    text = module("exp2", str(COUNT)).replace("exp2 %x0", f"exp2 %x0 {{{AT_MOST_ZERO}}}")
    x = -np.abs(samples())
    got = np.asarray(mlcflow.compile(text)(x))
    exact = torch.exp2(torch.from_numpy(x).double()).numpy()
    exact = np.where(x < -126, 0.0, exact)
    assert np.nanmax(ulps(got, exact)) <= 1.0
    assert (np.isnan(got) == np.isnan(x)).all()


def test_powers() -> None:
    rng = np.random.default_rng(1)
    x, y = (each.ravel() for each in np.meshgrid(EDGES, EDGES))
    count = (COUNT - x.size) // 2
    rest = COUNT - x.size - count
    usual = np.exp(rng.normal(0, 1, rest)).astype(np.float32)
    x = np.concatenate([x, samples()[-count:], usual])
    y = np.concatenate([y, rng.normal(0, 3, count), rng.normal(0, 60, rest)]).astype(np.float32)
    got = np.asarray(compiled("powf", inputs=2)(x, y))
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(np.float64), y.astype(np.float64))
    error = ulps(got, exact)
    worst = np.argmax(np.where(np.isnan(error), np.inf, error))
    assert error[worst] <= 1, f"{x[worst]!r} ** {y[worst]!r} = {got[worst]!r}, {exact[worst]!r}"


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0, -1.0, 0.5, -0.5])
def test_constant_exponents(exponent: float) -> None:
    x = torch.rand(64) + 0.5
    exe = mlcflow.compile(lambda x: torch.pow(x, exponent), x)
    error = ulps(exe(x).numpy(), torch.pow(x.double(), exponent).numpy())
    assert error.max() <= 2
    names = {op.operation.name for op in walk(exe.stages["vectors"].operation)}
    assert "math.powf" not in names


@pytest.mark.parametrize("operation", sorted(BOUNDS))
def test_loops_compute_the_same(operation: str) -> None:
    """A loop of unknown extent is not vectorized; its results are the same to the last bit."""
    x = samples()
    loops = compiled(operation, "?")
    assert not any(
        op.operation.name.startswith("vector.") for op in walk(loops.stages["vectors"].operation)
    )
    fast, slow = (np.asarray(exe(x)) for exe in (compiled(operation), loops))
    same = (fast.view(np.int32) == slow.view(np.int32)) | (np.isnan(fast) & np.isnan(slow))
    assert same.all()


@pytest.mark.parametrize("operation", ["exp", "tanh", "erf", "log1p", "sin", "powf"])
def test_nothing_is_called(operation: str) -> None:
    inputs = 2 if operation == "powf" else 1
    llvm = compiled(operation, inputs=inputs).stages["llvm"]
    called = {
        str(op.attributes["callee"]).removeprefix("@")
        for op in walk(llvm.operation)
        if op.operation.name == "llvm.call" and "callee" in op.attributes
    }
    assert called == {"main", f"{'pow' if inputs == 2 else operation}_kernel"}
    names = {op.operation.name for op in walk(llvm.operation)}
    assert not {f"llvm.intr.{name}" for name in ("exp", "exp2", "log", "pow", "sin")} & names


def test_half_precision_is_computed_in_single() -> None:
    x = torch.linspace(-6, 6, 256).to(torch.bfloat16)
    exe = mlcflow.compile(torch.tanh, x)
    names = {op.operation.name for op in walk(exe.stages["vectors"].operation)}
    assert not names & set(FUNCTIONS)
    torch.testing.assert_close(exe(x), torch.tanh(x), rtol=1e-2, atol=0)


def test_without_fused_operations() -> None:
    """A processor that has none would call the C library for each."""
    pipeline = mlcflow.compiler.build_pipeline("cpu", "cpu:nehalem")
    stages = pipeline.run(mlcflow.mlir.parse(module("exp", "64")))
    names = {op.operation.name for op in walk(stages["vectors"].operation)}
    assert "math.fma" not in names
    assert "math.exp" not in names


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 7, -2, 40])
def test_whole_powers(exponent: int) -> None:
    x = torch.rand(96) + 0.5
    exe = mlcflow.compile(lambda x: torch.pow(x, exponent) + 1, x)
    exact = torch.pow(x.double(), exponent) + 1
    assert ((exe(x) - exact) / exact).abs().max() < 8 * torch.finfo(torch.float32).eps
    names = {op.operation.name for op in walk(exe.stages["simplify"].operation)}
    assert "math.fpowi" not in names


def test_whole_powers_behind_a_product() -> None:
    """As in the GELU of GPT-2."""
    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU("tanh")).eval()
    x = torch.randn(16, 32)
    exe = mlcflow.compile(model, x)
    names = {op.operation.name for op in walk(exe.stages["vectors"].operation)}
    assert not names & {*FUNCTIONS, "math.fpowi"}
    got = exe(x)
    with torch.no_grad():
        exact = model.double()(x.double())
    assert (got - exact).abs().max() < 1e-5


@pytest.mark.parametrize("fast_math", [True, False])
def test_divisions_by_constants(fast_math: bool) -> None:
    x = torch.rand(128) + 0.5
    exe = mlcflow.compile(lambda x: x / 3.7, x, options={"fast_math": fast_math})
    names = {op.operation.name for op in walk(exe.stages["kernels"].operation)}
    assert ("arith.divf" in names) != fast_math
    error = ulps(exe(x).numpy(), (x.double() / torch.tensor(3.7).double()).numpy())
    assert error.max() <= (1.5 if fast_math else 0.5)
