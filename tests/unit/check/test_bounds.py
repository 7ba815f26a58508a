"""Error bounds hold, are not vacuous, and say where rounding decides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import mlcflow
from mlcflow import Stage, Target, VerificationError, mlir
from mlcflow.check.bounds import LAMBDA, LIKELY, VALUES, WORST, Arithmetic, Number
from mlcflow.check.rounding import likely, outputs_in_float64
from mlcflow.compiler import import_model
from mlcflow.pipeline import Pipeline
from mlcflow.pipelines import build

MODELS = {
    "linear": (torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.Tanh()), (5, 40)),
    "norm": (torch.nn.LayerNorm(64), (7, 64)),
    "softmax": (torch.nn.Softmax(-1), (6, 50)),
    "conv": (torch.nn.Conv2d(3, 4, 3, stride=2, padding=1), (2, 3, 9, 9)),
    "depthwise": (torch.nn.Conv2d(4, 4, 3, groups=4), (1, 4, 8, 8)),
    "pool": (torch.nn.MaxPool2d(2), (1, 3, 8, 8)),
    "mean": (torch.nn.AvgPool2d(3, padding=1), (1, 3, 8, 8)),
    "gelu": (torch.nn.GELU(), (3, 33)),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x), (1, 2, 9, 8)),
    "argmax": (lambda x: x.argmax(1), (4, 20)),
    "cat": (lambda x: torch.cat([x, x * 2], 1)[:, 1:] ** 3, (3, 5)),
    "gather": (lambda x: x[torch.tensor([2, 0])].sum(0), (3, 5)),
    "floor": (lambda x: torch.floor(x * 3) + x.to(torch.int32), (3, 5)),
    "cumsum": (lambda x: x.cumsum(1), (3, 50)),
}


def in_float64(model, x: torch.Tensor, how: Arithmetic) -> Number:
    numbers, why = outputs_in_float64(import_model(model, (x,)), [x], how)
    assert not why
    return numbers[0]


@pytest.mark.parametrize("name", MODELS)
def test_values_are_those_of_pytorch_in_float64_and_bounds_hold(name: str) -> None:
    model, shape = MODELS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        single = model(x).numpy()
        if isinstance(model, torch.nn.Module):
            model = model.double()
        double = model(x.double()).numpy()
        if isinstance(model, torch.nn.Module):
            model = model.float()
    np.testing.assert_allclose(in_float64(model, x, VALUES).value, double, rtol=1e-6, atol=1e-7)
    worst, likely = in_float64(model, x, WORST), in_float64(model, x, LIKELY)
    error = np.abs(single - worst.value)
    assert (error <= worst.errors).all()
    assert (error <= LAMBDA * likely.errors).all()
    assert (likely.errors <= worst.errors * (1 + 1e-9)).all()
    assert np.median(worst.errors) < 1e-3, "a bound that says nothing"


@given(seed=st.integers(0, 10**6), terms=st.integers(1, 3000), scale=st.integers(-12, 12))
def test_every_order_of_a_sum_is_within_the_worst_case(seed: int, terms: int, scale: int) -> None:
    random = np.random.default_rng(seed)
    x = (random.standard_normal(terms) * np.exp(scale * random.random(terms))).astype(np.float32)
    number = in_float64(lambda a: a.sum(), torch.from_numpy(x), WORST)
    for order in (x, x[::-1], np.sort(x), random.permutation(x)):
        total = np.add.accumulate(order, dtype=np.float32)[-1]
        assert abs(float(total) - number.value) <= number.errors


def test_only_a_pipeline_that_computes_by_tiles_has_their_bound() -> None:
    target = Target.parse("cpu:skylake-avx512")
    fast, exact = (likely(build("cpu", target, fast_math=fast)) for fast in (True, False))
    assert fast.tiles and not exact.tiles and not likely(build("reference", target)).tiles
    x = torch.zeros(1, 2, 12, 12)
    x[0, :, 6, 6] = 1.0  # the results around this pixel are of its size, the others are zeros
    model = torch.nn.Conv2d(2, 3, 3, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    tiled, alone = (in_float64(model, x, how).errors[0, 0] for how in (fast, exact))
    assert alone[0, 0] < 1e-30 and (tiled >= alone).all()
    assert (alone > 1e-8).sum() == 9 and 9 < (tiled > 1e-8).sum() < 100


def test_cancellation_widens_the_bound() -> None:
    x = torch.tensor([1e8, 1.0, -1e8])
    number = in_float64(lambda a: a.sum(), x, WORST)
    assert number.value == 1 and 1 < number.errors < 100


def test_rounding_decides_only_where_numbers_are_close() -> None:
    x = torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.3, 0.3]])
    weights = torch.tensor([1.0, 1.0, 1 + 2**-23])
    number = in_float64(lambda a: (a * weights).argmax(1), x, WORST)
    assert number.value.tolist() == [2, 2]
    assert number.errors.tolist() == [0, np.inf]


def test_overflow_has_no_bound() -> None:
    x = torch.tensor([1e30, 3e38])
    number = in_float64(lambda a: a * 10, x, WORST)
    assert np.isfinite(number.errors).tolist() == [True, False]


def test_infinities_and_nan_are_exact() -> None:
    x = torch.tensor([np.inf, -np.inf, np.nan, 1.0])
    number = in_float64(lambda a: torch.exp(a) + 2, x, WORST)
    assert number.errors[0] == 0 and number.value[1] == 2 and np.isnan(number.value[2])


def wrong_by(factor: float) -> Pipeline:
    """The reference, whose constants of 0.5 are a little larger."""

    def planted_bug(module: mlir.ir.Module) -> None:
        for op in mlir.walk(module.operation):
            if op.operation.name == "arith.constant" and "5.000000e-01" in str(op):
                kind = op.results[0].type
                op.attributes["value"] = mlir.ir.FloatAttr.get(kind, 0.5 * factor)

    return Pipeline("wrong", (Stage("bug", planted_bug), *build("reference", Target.host()).stages))


def test_verification_sees_what_a_flat_tolerance_does_not() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        return x * 0.5 + 1

    x = torch.randn(3, 4)
    mlcflow.compile(model, x, pipeline=wrong_by(1))
    with pytest.raises(VerificationError, match=r"rounding: "):
        mlcflow.compile(model, x, pipeline=wrong_by(1 + 1e-5))


def test_a_large_model_is_verified_by_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlcflow.check.rounding.AFFORDABLE", 0.0)
    test_verification_sees_what_a_flat_tolerance_does_not()
