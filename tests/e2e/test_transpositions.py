"""Elementwise operations that read their operands across."""

from __future__ import annotations

import itertools

import pytest
import torch

import mlcflow


@pytest.mark.parametrize("shape", [(3, 5, 7), (16, 17, 33), (2, 40, 64), (64, 1, 128)])
def test_every_permutation(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(*shape)
    for order in itertools.permutations(range(3)):
        y = torch.randn(*[shape[number] for number in order])

        def model(x: torch.Tensor, y: torch.Tensor, order: tuple = order) -> torch.Tensor:
            return x.permute(*order) * 2.5 + y

        executable = mlcflow.compile(model, x, y)
        torch.testing.assert_close(executable(x, y), model(x, y))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float64, torch.bool])
def test_types(dtype: torch.dtype) -> None:
    x = torch.randint(0, 2, (40, 33)).to(dtype)
    executable = mlcflow.compile(lambda x: x.t().contiguous(), x)
    assert torch.equal(executable(x), x.t())
