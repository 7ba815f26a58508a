"""Sizes that are known when the model runs: open dimensions, results that depend on data."""

from __future__ import annotations

import resource
import sys

import numpy as np
import pytest
import torch
from torch.export import Dim

import mlcflow
from mlcflow import ExecutionError, ImportModelError

ROWS = Dim("rows")


@pytest.fixture(scope="module", params=["reference", "cpu"])
def linear(request: pytest.FixtureRequest) -> tuple:
    """A layer with an open batch dimension, and its model."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    executable = mlcflow.compile(
        model, torch.randn(5, 4), dynamic_shapes=({0: ROWS},), pipeline=request.param
    )
    return model, executable


@pytest.mark.parametrize("rows", [0, 1, 2, 5, 17, 1000])
def test_one_open_dimension(linear: tuple, rows: int) -> None:
    model, executable = linear
    x = torch.randn(rows, 4)
    torch.testing.assert_close(executable(x), model(x).detach())
    np.testing.assert_allclose(executable(x.numpy()), model(x).detach(), rtol=1e-5, atol=1e-6)


def test_the_closed_dimension_is_checked(linear: tuple) -> None:
    with pytest.raises(ExecutionError, match=r"float32\[\?x4\]\): got an array of shape \(5, 3\)"):
        linear[1](torch.randn(5, 3))


def test_equal_names_are_equal_sizes(pipeline: str) -> None:
    executable = mlcflow.compile(
        lambda a, b: a + b,
        torch.randn(5, 4),
        torch.randn(5, 4),
        dynamic_shapes=({0: ROWS}, {0: ROWS}),
        pipeline=pipeline,
    )
    a, b = torch.randn(9, 4), torch.randn(9, 4)
    torch.testing.assert_close(executable(a, b), a + b)
    with pytest.raises(ExecutionError, match="is 8 here and 9 in an earlier input"):
        executable(a, torch.randn(8, 4))


def test_two_open_dimensions_are_refused() -> None:
    with pytest.raises(ImportModelError, match="expected one open dimension, found 2"):
        mlcflow.compile(
            lambda a: a.reshape(-1) + 1,
            torch.randn(5, 4),
            dynamic_shapes=({0: ROWS, 1: Dim("columns")},),
        )


def test_results_of_a_size_that_depends_on_the_data(pipeline: str) -> None:
    x = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    executable = mlcflow.compile(lambda a: torch.nonzero(a), x, pipeline=pipeline)
    for value in (x, torch.zeros(2, 3), torch.ones(2, 3)):
        assert torch.equal(executable(value), torch.nonzero(value))
        np.testing.assert_array_equal(executable(value.numpy()), torch.nonzero(value).numpy())


def test_results_of_both_kinds(pipeline: str) -> None:
    def model(a: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return a, torch.nonzero(a), a * 2, a

    x = torch.tensor([0.0, 1.0, 2.0])
    executable = mlcflow.compile(model, x, pipeline=pipeline)
    torch.testing.assert_close(executable(x), model(x))


def resident() -> int:
    """Peak memory of this process in KiB."""
    scale = 1024 if sys.platform == "darwin" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // scale


@pytest.mark.parametrize("model", [torch.nonzero, lambda a: (a, torch.nonzero(a), a)])
def test_memory_that_the_function_allocates_is_freed(pipeline: str, model) -> None:
    x = torch.ones(64, 1024)
    executable = mlcflow.compile(model, x, pipeline=pipeline)
    executable(x)  # a MiB of result
    before = resident()
    for _ in range(200):
        executable(x)
    assert resident() - before < 20 * 1024
