"""What random models once found, a test each."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

import mlcflow

NAN = torch.tensor([math.nan, math.inf, -math.inf, -3.0, 0.25, 7.0])

KEEP_NAN = {
    "clamp": lambda x: x.clamp(-1, 1),
    "clamp_tensor": lambda x: torch.clamp(x, torch.zeros(6), torch.ones(6)),
    "clamp_min": lambda x: x.clamp_min(0.5),
    "clamp_max": lambda x: x.clamp(max=0.5),
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "maximum": lambda x: torch.maximum(x, x.flip(0)),
    "minimum": lambda x: torch.minimum(x.flip(0), x),
}


@pytest.mark.parametrize("name", KEEP_NAN)
def test_nan_stays_nan(name: str, pipeline: str) -> None:
    """torch-mlir compares and selects, and NaN became one of the bounds."""
    function = KEEP_NAN[name]
    exe = mlcflow.compile(function, NAN, pipeline=pipeline, verify=False)
    torch.testing.assert_close(exe(NAN), function(NAN), equal_nan=True)


@pytest.mark.parametrize("function", [torch.argmax, torch.argmin])
@pytest.mark.parametrize("dim", [None, 0, 1, -1])
def test_the_position_of_nan(function, dim: int | None, pipeline: str) -> None:
    x = torch.stack([NAN.flip(0), NAN, torch.where(NAN == NAN, NAN, 0.0), -NAN])
    exe = mlcflow.compile(lambda x: function(x, dim), x, pipeline=pipeline)
    assert torch.equal(exe(x), function(x, dim))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log1p_of_what_is_small(dtype: torch.dtype, pipeline: str) -> None:
    """Lowered to ``log(1 + x)``, it gave 0 for 1e-10; absolute tolerances did not see that."""
    x = torch.tensor([1e-10, 1e-5, -1e-7, 5e-3], dtype=dtype)
    exe = mlcflow.compile(torch.log1p, x, pipeline=pipeline)
    torch.testing.assert_close(exe(x), torch.log1p(x), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_expm1_of_what_is_small(dtype: torch.dtype, pipeline: str) -> None:
    """The reference lowering gave ``exp(x) - 1``, 0 for 1e-10."""
    x = torch.tensor([1e-10, 1e-5, -1e-7, 5e-3, -math.inf], dtype=dtype)
    exe = mlcflow.compile(torch.expm1, x, pipeline=pipeline)
    rounding = 1e-2 if dtype is torch.bfloat16 else 1e-6
    torch.testing.assert_close(exe(x), torch.expm1(x), rtol=rounding, atol=0)


def test_groups_of_channels_that_a_reshape_joins(pipeline: str) -> None:
    """The reshape behind a grouped convolution was taken for the one that joins its groups."""
    weight, bias = torch.randn(16, 1, 1, 1), torch.randn(16)

    def model(x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, weight, bias, groups=2).reshape(800, 3)

    x = torch.randn(1, 2, 10, 15)
    exe = mlcflow.compile(model, x, pipeline=pipeline)
    torch.testing.assert_close(exe(x), model(x))


def test_an_operation_that_folds_away_when_it_is_scheduled(pipeline: str) -> None:
    """Fusion read the operand twice; as one it made the smaller of two equal numbers."""
    x = torch.randint(0, 256, (40, 45, 14), dtype=torch.uint8)
    exe = mlcflow.compile(lambda a: torch.minimum(a, a), x, pipeline=pipeline)
    assert torch.equal(exe(x), x)
