"""Large results are written past the cache, by whole lines that start where a line does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import mlcflow
from mlcflow.mlir import vector, walk
from mlcflow.runtime.frame import ALIGNED_BYTES, ALIGNMENT, address

SMALL_CACHE = replace(mlcflow.Target.host(), caches=(32 << 10, 1 << 20, 1 << 20))


def streamed(exe: mlcflow.Executable) -> list[bool]:
    """For each store of the kernels to a result, whether it goes past the cache."""
    stores = [op for op in walk(exe.stages["vectors"].operation) if isinstance(op, vector.StoreOp)]
    return [op.nontemporal is not None and op.nontemporal.value for op in stores]


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_a_large_result(kind: type) -> None:
    model = torch.nn.Softmax(-1)
    exe = mlcflow.compile(model, torch.zeros(512, 1024), target=SMALL_CACHE)
    assert any(streamed(exe))
    for seed in range(3):
        x = np.random.default_rng(seed).standard_normal((512, 1024), np.float32)
        result = exe(kind(x))
        assert address(result) % ALIGNMENT == 0
        expected = torch.softmax(torch.from_numpy(x).double(), -1)
        np.testing.assert_allclose(result, expected, rtol=2e-6)


def test_results_start_at_a_line_from_the_size_that_streams() -> None:
    for rows in (ALIGNED_BYTES // 4096, ALIGNED_BYTES // 4096 + 1):
        exe = mlcflow.compile(lambda x: x + 1, torch.zeros(rows, 1024), pipeline="reference")
        for _ in range(4):
            assert address(exe(np.zeros((rows, 1024), np.float32))) % ALIGNMENT == 0


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (torch.nn.Softmax(-1), (64, 1024)),  # fits the cache
        (torch.nn.Softmax(-1), (512, 1028)),  # rows do not start where a line does
        (lambda x: torch.softmax(x, -1)[:, :3].sum(), (512, 1024)),  # no result
    ],
)
def test_not_streamed(model: torch.nn.Module, shape: tuple[int, int]) -> None:
    exe = mlcflow.compile(model, torch.zeros(shape), target=SMALL_CACHE)
    assert not any(streamed(exe))


def test_a_kernel_with_a_small_result_elsewhere_is_not_streamed() -> None:
    class Twice(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.softmax(torch.softmax(x, -1) * 2, -1)

    exe = mlcflow.compile(Twice(), torch.zeros(512, 1024), target=SMALL_CACHE)
    x = np.random.default_rng(0).standard_normal((512, 1024), np.float32)
    y = torch.from_numpy(x).double()
    np.testing.assert_allclose(exe(x), Twice()(y), rtol=2e-6)
