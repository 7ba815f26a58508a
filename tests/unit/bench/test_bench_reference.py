"""What is right, and how far from it rounding may lead."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mlcflow.bench.compare import difference
from mlcflow.bench.model import Flat, specs
from mlcflow.bench.reference import LAMBDA, Reference
from mlcflow.bench.spec import Spec

UNIT = 2.0**-24


def reference(model: object, *example: torch.Tensor) -> Reference:
    return Reference(Flat(model, example, {}), example)


def test_the_tolerance_grows_with_the_length_of_reductions() -> None:
    one = torch.nn.Linear(100, 8, bias=False)
    work = reference(one, torch.ones(4, 100)).work
    assert work.tolerance == pytest.approx(LAMBDA * UNIT * math.sqrt(100))
    two = torch.nn.Sequential(torch.nn.Linear(100, 64, bias=False), torch.nn.Linear(64, 8))
    longer = reference(two, torch.ones(4, 100)).work
    assert longer.tolerance == pytest.approx(LAMBDA * UNIT * (math.sqrt(100) + math.sqrt(64)))


@pytest.mark.parametrize(
    ("model", "shape", "length"),
    [
        (torch.nn.Conv2d(3, 8, 5, bias=False), (1, 3, 9, 9), 3 * 5 * 5),
        (torch.nn.Softmax(-1), (2, 50), 50),
        (lambda x: x.sum(-1), (2, 50), 50),
        (lambda x: torch.einsum("ij,kj->ik", x, x), (2, 50), 50),
    ],
)
def test_lengths(model: object, shape: tuple[int, ...], length: int) -> None:
    found = reference(model, torch.randn(shape)).work.tolerance / (LAMBDA * UNIT)
    assert math.sqrt(length) <= found <= math.sqrt(length) + 2  # and what is elementwise


def test_work() -> None:
    work = reference(torch.nn.Linear(100, 8), torch.ones(4, 100)).work
    assert work.flops == 2 * 4 * 100 * 8
    assert work.weight_bytes == 4 * (100 * 8 + 8)
    assert work.bytes == work.weight_bytes + 4 * (4 * 100 + 4 * 8)


def test_attention_is_counted() -> None:
    example = tuple(torch.randn(1, 2, 32, 16) for _ in range(3))
    work = reference(torch.nn.functional.scaled_dot_product_attention, *example).work
    assert work.flops == 2 * 2 * (2 * 32 * 32 * 16)


def test_the_results_are_those_of_float64() -> None:
    layer = torch.nn.Linear(1000, 4)
    x = torch.randn(2, 1000)
    found = reference(layer, x)((x,))[0]
    weight, bias = (p.detach().numpy().astype(np.float64) for p in (layer.weight, layer.bias))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, x.numpy().astype(np.float64) @ weight.T + bias, rtol=1e-12)


def test_what_float32_makes_of_a_product_is_right_and_one_missing_term_is_not() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((2, 256, 256))
    expected, tolerance = a @ b, LAMBDA * UNIT * math.sqrt(256)
    product = a.astype(np.float32) @ b.astype(np.float32)
    assert difference([product], [expected], tolerance) < 1
    missing = a[:, :255].astype(np.float32) @ b[:255].astype(np.float32)
    assert difference([missing], [expected], tolerance) > 100


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        ([], [np.ones(2)]),
        ([np.ones(3)], [np.ones(2)]),
        ([np.array([1, np.nan])], [np.ones(2)]),
        ([np.ones(2)], [np.array([1, np.nan])]),
        ([np.array([1, -np.inf])], [np.array([1, np.inf])]),
        ([np.array([1, 3])], [np.array([1, 2])]),
        ([np.full(2, 1e-30)], [np.zeros(2)]),
    ],
)
def test_what_is_never_right(actual: list, expected: list) -> None:
    assert difference(actual, expected, 1e-3) == math.inf


def test_what_is_right_without_being_a_number() -> None:
    values = [np.array([np.nan, np.inf, 2.0]), np.array([1, 2]), np.zeros(0)]
    assert difference(values, values, 1e-3) == 0


def test_inputs_are_like_those_of_the_example() -> None:
    example = (
        torch.tensor([[3, 7, 5]]),
        torch.ones(4),
        torch.zeros(4),
        torch.randn(1000) * 5 + 100,
        torch.ones(2, dtype=torch.bool),
        torch.randn(8).bfloat16(),
    )
    drawn = [
        Spec(**{**data, "shape": tuple(data["shape"])}).draw(np.random.default_rng(1))
        for data in specs(example)
    ]
    ids, ones, zeros, numbers, mask, half = drawn
    assert [d.shape for d in drawn] == [tuple(value.shape) for value in example]
    assert ids.dtype == np.int64 and ids.min() >= 3 and ids.max() <= 7
    assert (ones == 1).all() and mask.all() and zeros.std() > 0
    assert abs(numbers.mean() - 100) < 2 and abs(numbers.std() - 5) < 1
    assert half.dtype.name == "bfloat16"
    again = Spec((1000,), "float32", 0.0, 1.0)
    first, second = (again.draw(np.random.default_rng(n)) for n in (0, 1))
    assert not np.array_equal(first, second)
