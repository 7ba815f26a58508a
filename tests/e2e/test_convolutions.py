"""Convolutions and poolings of every kind through the cpu pipeline, against float64."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_ir import calls, kernel_rules

import mlcflow
from mlcflow.mlir import ir, vector, walk

EPS = float(np.finfo(np.float32).eps)


def absolute(model: torch.nn.Module) -> torch.nn.Module:
    """``model`` in float64 with the magnitude of each parameter."""
    other = copy.deepcopy(model).double()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.abs_()
    return other


def check(model: torch.nn.Module, x: torch.Tensor, terms: int) -> mlcflow.Executable:
    """Compile, run on other values than those compiled with, and compare with float64.

    Each of at most ``terms`` rounding errors is as large as the sum of magnitudes allows.
    """
    model = model.eval()
    exe = mlcflow.compile(model, x, verify=False)
    fresh = torch.randn(x.shape)
    with torch.no_grad():
        wanted = copy.deepcopy(model).double()(fresh.double())
        bound = absolute(model)(fresh.double().abs()) * EPS * terms
    error = (exe(fresh).double() - wanted).abs()
    assert (error <= bound + 1e-30).all(), f"error {error.max()}, bound {bound.min()}"
    return exe


@st.composite
def convolutions(draw: Any) -> dict[str, Any]:
    """A convolution and the image that it moves over."""
    dims = draw(st.sampled_from([1, 2, 2, 2, 3]))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, "depthwise"]))
    into = draw(st.sampled_from([1, 3, 4, 10, 16, 17, 24, 32]))
    out = draw(st.sampled_from([1, 3, 8, 10, 17, 24, 32, 40, 64, 260]))
    if groups == "depthwise":
        groups, out = into, into * draw(st.sampled_from([1, 1, 2]))
    elif isinstance(groups, int) and groups > 1:
        into, out = into * groups, out * groups
    window = [draw(st.integers(1, 3)) for _ in range(dims)]
    dilation = [draw(st.integers(1, 2)) for _ in range(dims)]
    padding = [draw(st.integers(0, 2)) for _ in range(dims)]
    least = [d * (w - 1) + 1 for d, w in zip(dilation, window, strict=True)]
    size = [m + draw(st.integers(0, 18 if dims < 3 else 4)) for m in least]
    return {
        "dims": dims, "into": into, "out": out, "window": window, "groups": groups,
        "stride": [draw(st.integers(1, 3)) for _ in range(dims)],
        "padding": padding, "dilation": dilation, "bias": draw(st.booleans()),
        "shape": (draw(st.integers(1, 2)), into, *size),
    }  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(convolutions())
def test_convolutions(case: dict[str, Any]) -> None:
    torch.manual_seed(0)
    kind = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)[case["dims"] - 1]
    model = kind(
        case["into"], case["out"], case["window"], case["stride"], case["padding"],
        case["dilation"], case["groups"], case["bias"],
    )  # fmt: skip
    terms = case["into"] // case["groups"] * int(np.prod(case["window"])) + 2
    check(model, torch.randn(case["shape"]), terms)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    pool=st.sampled_from(["max", "average"]),
    channels=st.sampled_from([3, 16, 24, 40]),
    window=st.integers(1, 3),
    stride=st.integers(1, 3),
    size=st.tuples(st.integers(4, 20), st.integers(4, 20)),
)
def test_poolings(pool: str, channels: int, window: int, stride: int, size: tuple) -> None:
    torch.manual_seed(0)
    kind = {"max": torch.nn.MaxPool2d, "average": torch.nn.AvgPool2d}[pool]
    model = torch.nn.Sequential(torch.nn.Conv2d(3, channels, 1), kind(window, stride, window // 2))
    check(model, torch.randn(1, 3, *size), 3 + window * window + 2)


def normalized(channels: int) -> torch.nn.BatchNorm2d:
    """Batch normalization as after some training."""
    norm = torch.nn.BatchNorm2d(channels)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return norm


def network() -> torch.nn.Sequential:
    """Convolutions of several kinds, with all that commonly lies between them."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 24, 3, stride=2, padding=1, bias=False), normalized(24),
        torch.nn.ReLU6(), torch.nn.Conv2d(24, 24, 3, padding=1, groups=24), normalized(24),
        torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Conv2d(24, 40, 1), normalized(40),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(40, 5),
    ).eval()  # fmt: skip


def close(exe: mlcflow.Executable, model: torch.nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(exe(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fast_math", [True, False])
def test_batch_norm(fast_math: bool) -> None:
    model, x = network(), torch.randn(1, 3, 32, 32)
    exe = mlcflow.compile(model, x, options={"fast_math": fast_math})
    kernels = str(exe.stages["kernels"])
    in_main = kernels.split("@prepare")[0]
    assert "sqrt" not in in_main  # whatever the option, what parameters alone decide is prepared
    close(exe, model, torch.randn_like(x))


def test_changed_parameters_are_prepared_again() -> None:
    model, x = network(), torch.randn(1, 3, 32, 32)
    exe = mlcflow.compile(model, x)
    with torch.no_grad():
        model[0].weight.mul_(2)
        model[1].running_mean.add_(1)
        model[4].weight.neg_()
    exe.prepare()
    close(exe, model, x)


def test_a_statistic_that_the_model_updates_is_not_prepared() -> None:
    model, x = network().train(), torch.randn(2, 3, 32, 32)
    reference = copy.deepcopy(model)
    exe = mlcflow.compile(model, x, verify=False)
    for _ in range(2):
        fresh = torch.randn_like(x)
        with torch.no_grad():
            torch.testing.assert_close(exe(fresh), reference(fresh), rtol=1e-3, atol=1e-4)


class Unet(torch.nn.Module):
    """Two levels: pooling, up-sampling by a transposed convolution, concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down = torch.nn.Conv2d(3, 16, 3, padding=1)
        self.low = torch.nn.Conv2d(16, 32, 3, padding=1)
        self.up = torch.nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.out = torch.nn.Conv2d(32, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        high = torch.relu(self.down(x))
        low = torch.relu(self.low(torch.nn.functional.max_pool2d(high, 2)))
        return self.out(torch.cat([high, self.up(low)], 1))


def test_unet() -> None:
    torch.manual_seed(0)
    model, x = Unet().eval(), torch.randn(1, 3, 24, 24)
    exe = mlcflow.compile(model, x)
    close(exe, model, torch.randn_like(x))


class Gated(torch.nn.Module):
    """Channels scaled by what two 1x1 convolutions make of their averages; a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(8, 24, 1)
        self.squeeze = torch.nn.Conv2d(24, 6, 1)
        self.excite = torch.nn.Conv2d(6, 24, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.silu(self.first(x))
        gate = torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))
        return x + x * torch.sigmoid(self.excite(gate))


def test_gates() -> None:
    torch.manual_seed(0)
    model, x = Gated().eval(), torch.randn(1, 8, 12, 12)
    close(mlcflow.compile(model, x), model, torch.randn_like(x))


class Turned(torch.nn.Module):
    """Channels are put last between two convolutions, as before a layer normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = torch.nn.LayerNorm(8)
        self.wide = torch.nn.Linear(8, 16)
        self.last = torch.nn.Conv2d(16, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.wide(self.norm(self.first(x).permute(0, 2, 3, 1)))
        return x + self.last(y.permute(0, 3, 1, 2))


def test_channels_that_the_model_puts_last() -> None:
    torch.manual_seed(0)
    model, x = Turned().eval(), torch.randn(1, 8, 6, 6)
    exe = mlcflow.compile(model, x)
    assert calls(exe, "kernels")["copy_kernel"] <= 1  # where the image enters
    assert "loops" not in kernel_rules(exe).values()
    close(exe, model, torch.randn_like(x))


def test_a_wave_of_one_channel() -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Unflatten(0, (1, 1, 400)), torch.nn.Conv1d(1, 16, 10, stride=5)]
    model = torch.nn.Sequential(*layers, torch.nn.GELU(), torch.nn.Conv1d(16, 8, 3)).eval()
    x = torch.randn(400)
    exe = mlcflow.compile(model, x)
    assert {"window", "convolution"} <= set(kernel_rules(exe).values())
    close(exe, model, torch.randn_like(x))


def test_several_padded_images() -> None:
    """Their borders are filled some vectors at a time, whatever their number."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 16, 7, stride=7, padding=3), torch.nn.ReLU()]
    exe = check(torch.nn.Sequential(*layers), torch.randn(8, 3, 225, 224), 3 * 49 + 2)
    assert "transposition" in kernel_rules(exe).values()
    shapes = [ir.VectorType(value.type).shape for value in written(exe)]
    assert shapes and max(int(np.prod(shape)) for shape in shapes) <= 32 * 32


def written(exe: mlcflow.Executable) -> list[ir.Value]:
    """The vectors that kernels write."""
    module = exe.stages["schedule"]
    found = [op for op in walk(module.operation) if isinstance(op, vector.TransferWriteOp)]
    return [op.valueToStore for op in found]


def test_clamps_belong_to_convolutions() -> None:
    """As ReLU does, also where a padded image follows; NaN goes through."""
    torch.manual_seed(0)
    layers = [
        torch.nn.Conv2d(16, 32, 1), torch.nn.ReLU6(), torch.nn.Conv2d(32, 32, 3, 1, 1, groups=32),
        torch.nn.Hardtanh(-0.5, 1), torch.nn.Conv2d(32, 16, 1),
    ]  # fmt: skip
    model, x = torch.nn.Sequential(*layers).eval(), torch.randn(1, 16, 12, 12) * 8
    exe = mlcflow.compile(model, x)
    assert calls(exe, "kernels").total() == 3 + 2  # two transposes, where images come and go
    assert "f64" not in str(exe.stages["kernels"])
    close(exe, model, torch.randn_like(x))
    x[0, 3, 5, 5] = torch.nan
    assert torch.equal(exe(x).isnan(), model(x).isnan())


def test_one_window_that_does_not_cover_the_image() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.MaxPool2d(3, 3), torch.nn.Conv2d(4, 8, 1)).eval()
    x = torch.randn(1, 4, 5, 4)
    close(mlcflow.compile(model, x), model, torch.randn_like(x))
