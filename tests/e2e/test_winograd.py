"""3x3 convolutions by Winograd's filtering: chosen where it pays, and as exact as it can be."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from model_ir import calls, count, kernel_rules

import mlcflow
from mlcflow import Target
from mlcflow.graph import winograd, winograd_blocks
from mlcflow.graph.winograd_matrices import winograd_matrices
from mlcflow.graph.winograd_tiles import POINTS, best_tile

ROUNDOFF = 2.0**-24
FOUR_CORES = dataclasses.replace(Target.host(), cores=4)
CHIP = Target.parse("cpu:skylake-avx512")


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch):
    """A function that fixes the size of the tiles, whatever pays."""
    return lambda size: monkeypatch.setattr(winograd, "best_tile", lambda loops, target: size)


def by_tiles(image: np.ndarray, weights: np.ndarray, tile: int, how: Any) -> np.ndarray:
    """The convolution of ``image[c, y, x]`` by its definition, with ``how`` the matrices."""
    a, g, b = (np.array(m, dtype=float) for m in (how.result, how.filter, how.window))
    if image.min() >= 0 and weights.min() >= 0:  # the bound: all of one sign
        a, g, b = abs(a), abs(g), abs(b)
    filters = np.einsum("ar,bs,fcrs->abfc", g, g, weights)
    _, height, width = image.shape
    result = np.zeros((len(weights), height - 2, width - 2))
    for y in range(0, height - 2, tile):
        for x in range(0, width - 2, tile):
            part = image[:, y : y + tile + 2, x : x + tile + 2]
            read = np.einsum("ai,bj,cij->abc", b, b, part)
            made = np.einsum("abfc,abc->abf", filters, read)
            result[:, y : y + tile, x : x + tile] = np.einsum("ya,xb,abf->fyx", a, a, made)
    return result


@pytest.mark.parametrize("tile", [2, 4])
def test_the_matrices_give_the_convolution(tile: int) -> None:
    random = np.random.default_rng(0)
    image, weights = random.normal(size=(3, 10, 14)), random.normal(size=(5, 3, 3, 3))
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3), (1, 2))
    wanted = np.einsum("cyxrs,fcrs->fyx", windows, weights)
    how = winograd_matrices(POINTS[tile], 3)
    np.testing.assert_allclose(by_tiles(image, weights, tile, how), wanted, atol=1e-12)
    for matrix in (how.window, how.result):  # no rounding of their own
        assert all(float(np.float32(x)) == x for row in matrix for x in row)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    tile=st.sampled_from([2, 4]), n=st.sampled_from([1, 1, 2]), height=st.integers(1, 15),
    width=st.integers(1, 15), into=st.sampled_from([2, 3, 16, 20]),
    out=st.sampled_from([2, 8, 16, 33]), padding=st.integers(0, 2),
    epilogue=st.sampled_from(["", "relu", "residual"]), by_blocks=st.booleans(),
)  # fmt: skip
@example(
    tile=4, n=1, height=10, width=10, into=16, out=16, padding=0, epilogue="", by_blocks=True,
)  # fmt: skip
def test_any_size_is_right(
    tile: int, n: int, height: int, width: int, into: int, out: int, padding: int, epilogue: str,
    by_blocks: bool,
) -> None:  # fmt: skip
    """Within ``gamma * |A^T| (|G g| . |B^T d|) |A|``: what every order of these sums keeps."""
    height, width = max(height, 3 - 2 * padding), max(width, 3 - 2 * padding)
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(into, out, 3, padding=padding)

    def model(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        z = conv(x)
        return torch.relu(z) if epilogue == "relu" else z + y if epilogue else z

    x = torch.randn(n, into, height, width)
    y = torch.randn(conv(x).shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "best_tile", lambda loops, target: tile)
        patch.setattr(winograd_blocks, "_rows", lambda chain, target: int(by_blocks))
        exe = _compile(model, conv, x, y)
    assert "winograd" in kernel_rules(exe).values()
    with torch.no_grad():
        got = exe(x, y).double().numpy()
        wide = copy.deepcopy(conv).double()
        wanted = wide(x.double()).numpy()
    wanted = np.maximum(wanted, 0) if epilogue == "relu" else wanted + y.numpy() * bool(epilogue)
    how = winograd_matrices(POINTS[tile], 3)
    extra = [(padding, padding + -(size + 2 * padding - 2) % tile) for size in (height, width)]
    weights = np.abs(wide.weight.detach().numpy())
    for number in range(n):
        image = np.abs(np.pad(x[number].numpy(), [(0, 0), *extra]))
        sizes = by_tiles(image, weights, tile, how)[:, : got.shape[2], : got.shape[3]]
        sizes += np.abs(wide.bias.detach().numpy())[:, None, None] + np.abs(y[number].numpy())
        # Terms of a sum of channels, of the transforms in two dimensions, and what follows.
        bound = ROUNDOFF * (into + 9 + 4 * 6 + 4) * sizes
        assert (np.abs(got[number] - wanted[number]) <= bound).all()


def _compile(model: Any, conv: torch.nn.Module, *args: torch.Tensor) -> mlcflow.Executable:
    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return model(x, y)

    return mlcflow.compile(Module().eval(), *args, verify=False)


@pytest.mark.parametrize("tile", [2, 4])
def test_three_kernels_and_filters_that_are_made_once(
    tile: int, tiles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles(tile)
    monkeypatch.setattr(winograd_blocks, "_rows", lambda chain, target: 0)
    layers = [torch.nn.Conv2d(16, 32, 3, padding=1, bias=False), torch.nn.BatchNorm2d(32)]
    model = torch.nn.Sequential(*layers, torch.nn.ReLU()).eval()
    x = torch.randn(1, 16, 12, 12)
    exe = mlcflow.compile(model, x)
    planes = (tile + 2) ** 2
    assert f"tensor<{planes}x16x32xf32> {{mlcflow.prepared" in str(exe.stages["kernels"])
    found = kernel_rules(exe)
    rules = [found[name] for name in calls(exe, "schedule")]
    assert rules.count("winograd") == 2 and rules.count("contraction") == 1
    assert "convolution" not in rules and count(exe, "kernels", "func.call") == 5
    with torch.no_grad():
        model[0].weight.mul_(2)
        model[1].running_var.add_(1)
    exe.prepare()
    torch.testing.assert_close(exe(x), model(x), rtol=1e-4, atol=1e-5)


class Residual(torch.nn.Module):
    """As the blocks of a ResNet: the image is added to what two convolutions make of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(16, 16, 3, padding=1)
        self.second = torch.nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(torch.relu(self.first(x))))


@pytest.mark.parametrize("n", [1, 2])
def test_what_is_added_is_added_to_tiles(n: int, tiles: Any) -> None:
    tiles(4)
    torch.manual_seed(0)
    model = torch.nn.Sequential(Residual(), torch.nn.MaxPool2d(2)).eval()
    exe = mlcflow.compile(model, torch.randn(n, 16, 12, 12))
    found = calls(exe, "kernels")
    assert not [name for name in found if name.startswith("add")]
    assert any(name.startswith("transform_add_select") for name in found)
    x = torch.randn(n, 16, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(exe(x), model(x), rtol=1e-4, atol=1e-5)


def test_filters_are_not_copied_at_each_call(tiles: Any) -> None:
    tiles(4)
    exe = mlcflow.compile(torch.nn.Conv2d(64, 64, 3).eval(), torch.randn(1, 64, 30, 30))
    text = str(exe.stages["schedule"])
    product = text[text.index("func.func private @batch_matmul") :].split("func.func")[1]
    assert "vector.contract" in product and "tensor.empty" not in product


@pytest.mark.parametrize("n", [1, 2])
def test_one_kernel_whose_planes_stay_in_the_cache(n: int) -> None:
    """A convolution of many tiles is one kernel; each thread has the planes of some tiles."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(32, 64, 3, padding=1), torch.nn.ReLU()).eval()
    x = torch.randn(n, 32, 96, 96)
    exe = mlcflow.compile(model, x, target=FOUR_CORES)
    found = kernel_rules(exe)
    assert [found[name] for name in calls(exe, "schedule")].count("winograd") == 1
    assert "batch_matmul_kernel" not in found and count(exe, "kernels", "func.call") == 3
    (name,) = [name for name in found if name.startswith("winograd")]
    planes, whole = 36 * 24 * (32 + 64) * 4, 36 * 24 * 24 * (32 + 64) * 4
    scratch = [each.bytes for each in exe.memory().buffers if each.scratch == name]
    assert len(scratch) == 1 and scratch[0] >= 4 * planes and scratch[0] < whole
    reference = copy.deepcopy(model).double()
    with torch.no_grad():
        torch.testing.assert_close(exe(x).double(), reference(x.double()), rtol=1e-4, atol=1e-4)


def test_where_it_pays() -> None:
    resnet = [(1, 56, 56, 64, 3, 3, 64), (1, 28, 28, 128, 3, 3, 128), (1, 14, 14, 256, 3, 3, 256)]
    assert [best_tile(loops, CHIP) for loops in resnet] == [4, 4, 2]
    assert best_tile((1, 7, 7, 512, 3, 3, 512), CHIP) == 0  # filters larger than the work
    assert best_tile((1, 224, 224, 64, 3, 3, 3), CHIP) == 0  # sums of 27 products
    assert best_tile((1, 14, 14, 32, 3, 3, 32), CHIP) == 0  # little work


@pytest.mark.parametrize(
    "conv",
    [
        torch.nn.Conv2d(64, 64, 3, stride=2), torch.nn.Conv2d(64, 64, 3, dilation=2),
        torch.nn.Conv2d(64, 64, 3, groups=2), torch.nn.Conv2d(64, 64, 5),
        torch.nn.Conv2d(64, 64, (3, 1)), torch.nn.Conv2d(64, 64, 3).double(),
    ],
)  # fmt: skip
def test_other_convolutions_stay(conv: torch.nn.Module, tiles: Any) -> None:
    tiles(2)
    x = torch.randn(1, 64, 12, 12, dtype=conv.weight.dtype)
    exe = mlcflow.compile(conv.eval(), x)
    assert "winograd" not in kernel_rules(exe).values()


def test_filters_that_are_inputs_and_exact_sums_stay(tiles: Any) -> None:
    tiles(4)
    x, weights = torch.randn(1, 16, 12, 12), torch.randn(16, 16, 3, 3)
    exe = mlcflow.compile(torch.nn.functional.conv2d, x, weights)
    assert "winograd" not in kernel_rules(exe).values()
    conv = torch.nn.Conv2d(16, 16, 3).eval()
    exact = mlcflow.compile(conv, x, options={"fast_math": False})
    assert "winograd" not in kernel_rules(exact).values()


def test_pixels_of_other_sizes_nearby(tiles: Any) -> None:
    """What is next to large pixels is less exact, and verification and certificate know it."""
    tiles(4)
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(32, 32, 3, padding=1).eval()
    x = torch.randn(1, 32, 16, 16) * 1e-4
    x[..., 5, 5] = 1e4
    exe = mlcflow.compile(conv, x)
    assert "winograd" in kernel_rules(exe).values()
    assert exe.certificate(x).holds
