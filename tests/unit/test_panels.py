"""Panels of parameters are made once, in ``@prepare``."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mlcflow
from mlcflow.graph.interface import entry_points, names_of


def names(executable: mlcflow.Executable, function: str, role: str, *, results: bool) -> list:
    module = executable.stages["schedule"]
    found = next(f for f in entry_points(module) if f.name.value == function)
    return [name for name in names_of(found, role, results=results) if name]


def error(executable: mlcflow.Executable, model: torch.nn.Module, x: torch.Tensor) -> float:
    """The largest difference from the model in float64."""
    with torch.no_grad():
        exact = model.double()(x.double())
        model.float()
        return float((executable(x).double() - exact).abs().max())


def test_layers_of_one_shape_share_the_kernel_that_makes_their_panels() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(*[torch.nn.Linear(96, 96) for _ in range(3)]).eval()
    x = torch.randn(24, 96)
    executable = mlcflow.compile(model, x)
    made = names(executable, "prepare", "prepared", results=True)
    assert len(made) == 3 and all("/panels" in name for name in made)
    assert names(executable, "main", "prepared", results=False) == made
    assert str(executable.stages["schedule"]).count("func.func private") == 3  # and a transpose
    assert error(executable, model, x) < 1e-5


def test_prepare_makes_panels_of_changed_parameters() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 50).eval()
    x = torch.randn(40, 64)
    executable = mlcflow.compile(model, x)
    with torch.no_grad():
        model.weight.mul_(3)
    assert error(executable, model, x) > 0.1
    executable.prepare()
    assert error(executable, model, x) < 1e-5


class Shared(torch.nn.Module):
    """One product of a parameter, and one of the same shapes of inputs alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(64, 64))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x @ self.weight) @ y


def test_a_kernel_that_also_reads_inputs_keeps_its_copy() -> None:
    torch.manual_seed(0)
    model = Shared()
    x, y = torch.randn(64, 64), torch.randn(64, 64)
    executable = mlcflow.compile(model, x, y)
    assert str(executable.stages["schedule"]).count("call @") == 2
    assert not names(executable, "main", "prepared", results=False)
    with torch.no_grad():
        exact = (x.double() @ model.weight.double()) @ y.double()
    np.testing.assert_allclose(executable(x, y), exact, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "shape", [(1, 37, 50), (4, 3, 129), (33, 500, 77), (7, 1, 15), (16, 64, 17)]
)
def test_shapes_that_no_tile_divides(shape: tuple[int, int, int]) -> None:
    rows, depth, columns = shape
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(depth, columns), torch.nn.ReLU()).eval()
    x = torch.randn(rows, depth)
    executable = mlcflow.compile(model, x)
    # A sum of one product is none.
    assert ("vector.contract" in str(executable.stages["schedule"])) == (depth > 1)
    # A sum of ``depth`` products of numbers around 1, in f32.
    assert error(executable, model, x) <= 4 * depth * 2**-24


@pytest.mark.parametrize(
    "shapes", [((40, 64), (300, 64)), ((3, 5, 7), (3, 257, 7)), ((1, 64), (300, 64))]
)
def test_transposed_matrices_are_turned_in_the_panels(shapes: tuple) -> None:
    torch.manual_seed(0)
    x, y = (torch.randn(shape) for shape in shapes)
    executable = mlcflow.compile(lambda x, y: torch.relu(x @ y.transpose(-1, -2)), x, y)
    scheduled = str(executable.stages["schedule"])
    assert "vector.contract" in scheduled and "transposition" not in scheduled
    exact = torch.relu(x.double() @ y.double().transpose(-1, -2))
    assert float((executable(x, y).double() - exact).abs().max()) <= 4 * x.shape[-1] * 2**-23


def test_parameters_in_another_shape_are_prepared_too() -> None:
    """The weights of a 1x1 convolution lose two dimensions on their way to its kernel."""
    torch.manual_seed(0)
    model, x = torch.nn.Conv2d(64, 96, 1).eval(), torch.randn(1, 64, 9, 9)
    executable = mlcflow.compile(model, x)
    assert names(executable, "main", "prepared", results=False) == ["weight#0/panels"]
    assert names(executable, "main", "parameter", results=False) == ["bias"]
    assert error(executable, model, x) < 1e-5
