"""Softmax and normalizations: one kernel each, and as accurate as their sums allow."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch

import mlcflow
from mlcflow.graph.kernel import find_kernels
from mlcflow.mlir import linalg, walk
from mlcflow.report.assembly import functions
from mlcflow.runtime.executable import Executable

EPS = torch.finfo(torch.float32).eps


class Softmax(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, -1)


class LogSoftmax(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(x, -1)


class LogSumExp(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.logsumexp(x, -1)


class MaskedSoftmax(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x * 0.125 + x[:1], -1)


def layer_norm(n: int) -> torch.nn.Module:
    layer = torch.nn.LayerNorm(n)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    return layer


MODELS: dict[str, Callable[[int], torch.nn.Module]] = {
    "softmax": lambda n: Softmax(),
    "masked_softmax": lambda n: MaskedSoftmax(),
    "log_softmax": lambda n: LogSoftmax(),
    "logsumexp": lambda n: LogSumExp(),
    "layer_norm": layer_norm,
    "rms_norm": torch.nn.RMSNorm,
}


def rules(exe: Executable) -> list[str]:
    functions = exe.stages["schedule"].body.operations
    found = [f for f in functions if "mlcflow.rule" in f.attributes]
    return [str(f.attributes["mlcflow.rule"]).strip('"') for f in found]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(4, 7), (3, 64), (5, 100), (2, 3, 197), (4, 1024)], ids=str)
def test_one_kernel(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = MODELS[name](shape[-1]).eval()
    x = torch.randn(shape) * 3 + 1
    exe = mlcflow.compile(model, x)
    assert rules(exe) == ["rows"]
    (kernel,) = find_kernels(exe.stages["kernels"])
    assert kernel.kind == "normalization"
    with torch.no_grad():
        exact = model.double()(x.double())
    # Sums in 64 parts; the rest is a few operations on numbers as large as the largest.
    bound = (shape[-1] / 64 + 20) * EPS * exact.abs().max()
    assert (exe(x) - exact).abs().max() <= bound


def test_the_position_of_the_maximum_is_gone() -> None:
    exe = mlcflow.compile(Softmax(), torch.randn(4, 32))
    generics = [
        op for op in walk(exe.stages["kernels"].operation) if isinstance(op, linalg.GenericOp)
    ]
    assert all(len(op.results) == 1 for op in generics)
    names = {op.operation.name for op in walk(exe.stages["kernels"].operation)}
    assert "linalg.index" not in names


def test_a_used_position_stays() -> None:
    x = torch.randn(4, 33)
    exe = mlcflow.compile(lambda x: torch.max(x, -1), x)
    values, positions = exe(x)
    assert torch.equal(values, x.max(-1).values)
    assert torch.equal(positions, x.max(-1).indices)


def test_extreme_rows() -> None:
    x = torch.randn(6, 50)
    x[0, 3] = float("inf")
    x[1, 4] = float("nan")
    x[2] = -float("inf")
    x[3, 1:] = -float("inf")
    x[4] *= 1e30
    exe = mlcflow.compile(Softmax(), x, verify=False)
    torch.testing.assert_close(exe(x), torch.softmax(x, -1), equal_nan=True)


def test_no_row_is_kept_whole_in_memory_between_kernels() -> None:
    """What lies between the steps of a row is as long as a row."""
    exe = mlcflow.compile(Softmax(), torch.randn(256, 512))
    assert exe.memory().arena < 64 * 512


def test_without_fast_math_sums_keep_their_order() -> None:
    x = torch.randn(8, 100)
    exe = mlcflow.compile(Softmax(), x, options={"fast_math": False})
    assert "rows" not in rules(exe)
    torch.testing.assert_close(exe(x), torch.softmax(x, -1))


def test_the_epilogue_of_a_product_stays_with_it() -> None:
    """Scores are scaled where they are computed, on accumulators in registers."""
    a, b = torch.randn(64, 32), torch.randn(32, 64)
    exe = mlcflow.compile(lambda a, b: torch.softmax(a @ b * 0.125, -1), a, b)
    assert sorted(rules(exe)) == ["contraction", "rows"]
    product = next(k for k in find_kernels(exe.stages["kernels"]) if k.kind == "contraction")
    assert product.final != product.root


def test_a_large_mean_costs_no_accuracy() -> None:
    """The mean square less the squared mean would lose all digits."""
    torch.manual_seed(0)
    x = torch.randn(16, 256) + 1000
    # PyTorch's own result is no measure: a mean of 1000 is rounded to 6e-5.
    exe = mlcflow.compile(torch.nn.LayerNorm(256), x, verify=False)
    exact = torch.nn.functional.layer_norm(x.double(), (256,))
    assert (exe(x) - exact).abs().max() < 1e-3


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_exact(approximate: str, pipeline: str) -> None:
    """torch-mlir's own form of the second is 5e-5 off."""
    x = torch.randn(16, 32) * 2
    model = torch.nn.GELU(approximate)
    exe = mlcflow.compile(model, x, pipeline=pipeline)
    assert (exe(x) - model(x.double())).abs().max() < 1e-6


@pytest.mark.parametrize("offset", [0.0, 1e4, -3e4])
def test_softmax_takes_powers_of_two(offset: float) -> None:
    x = torch.randn(9, 70) * 20 + offset
    exe = mlcflow.compile(Softmax(), x)
    names = [op.operation.name for op in walk(exe.stages["kernels"].operation)]
    assert "math.exp2" in names and "math.exp" not in names
    expected = torch.softmax(x.double(), -1)
    # Each power is off by the rounding of its exponent, twice: of the difference, of a product.
    allowed = expected * (4 + 2 * (x.double() - x.double().amax(-1, keepdim=True)).abs()) * EPS
    assert ((exe(x) - expected).abs() <= allowed + torch.finfo(torch.float32).tiny).all()


def test_an_exponent_that_may_be_above_zero_stays() -> None:
    def shifted(x: torch.Tensor) -> torch.Tensor:
        powers = torch.exp(x - x.mean(-1, keepdim=True))
        return powers / powers.sum(-1, keepdim=True)

    exe = mlcflow.compile(shifted, torch.randn(9, 70))
    names = [op.operation.name for op in walk(exe.stages["kernels"].operation)]
    assert "math.exp" in names and "math.exp2" not in names
    x = torch.randn(9, 70) * 20
    torch.testing.assert_close(exe(x), shifted(x.double()).float(), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("place", [0, 5, 63, 64, 200, 1023])
@pytest.mark.parametrize("columns", [1024, 1030])
def test_nan_goes_through_a_row_wherever_it_is(place: int, columns: int) -> None:
    x = torch.randn(3, columns)
    x[1, place] = float("nan")
    exe = compiled_softmax(columns)
    result = torch.from_numpy(exe(x.numpy()))
    torch.testing.assert_close(result, torch.softmax(x, -1), equal_nan=True)
    assert not result[::2].isnan().any()


@functools.cache
def compiled_softmax(columns: int) -> mlcflow.Executable:
    return mlcflow.compile(torch.nn.Softmax(-1), torch.zeros(3, columns))


def test_a_maximum_takes_one_instruction_where_nan_is_found_by_the_sum() -> None:
    """Elsewhere NaN has to go through the maximum itself."""
    kernel = str(functions(compiled_softmax(1024))["reduce_maximum_sub_exp"])
    assert "vmaxps" in kernel or "maxps" in kernel
    assert "cmpunord" not in kernel
    exe = mlcflow.compile(lambda x: x - x.amax(-1, keepdim=True), torch.zeros(3, 1024))
    assert "cmpunord" in "\n".join(map(str, functions(exe).values()))
    x = torch.zeros(3, 1024)
    x[1, 4] = float("nan")
    assert exe(x).isnan().all(-1).tolist() == [False, True, False]
