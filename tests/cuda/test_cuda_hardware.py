"""On a machine with a GPU of NVIDIA: ``pytest -m gpu``."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from test_cuda_rules import CONTRACTIONS, ROWS, models
from test_operations import FLOATS, VALUES, WRONG_INDICES

import mlcflow
from mlcflow.check.compare import compare
from mlcflow.gpu.driver import has_driver

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not has_driver(), reason="no driver for NVIDIA GPUs"),
]


def build(function, *inputs, **options):
    return mlcflow.compile(function, *inputs, pipeline="cuda", **options)


@pytest.mark.parametrize("name", VALUES)
def test_operations(name):
    function, *inputs = VALUES[name]
    build(function, *inputs)  # verified against PyTorch


@pytest.mark.parametrize("name", models())
def test_models(name):
    model, x = models()[name]
    build(model.eval(), x)


@pytest.mark.parametrize("name", CONTRACTIONS)
def test_contractions(name):
    function, *shapes = CONTRACTIONS[name]
    build(function, *(torch.randn(shape) for shape in shapes))


@pytest.mark.parametrize("name", ROWS)
def test_rows(name):
    function, shape = ROWS[name]
    build(function, torch.randn(shape))


def test_a_large_product():
    a, b = torch.randn(1024, 2048), torch.randn(2048, 512)
    executable = build(lambda a, b: a @ b, a, b, verify=False)
    expected = a.double() @ b.double()
    bound = 2048 * 2**-24 * (a.abs().double() @ b.abs().double())
    assert ((executable(a, b).double() - expected).abs() <= bound).all()


def test_a_failed_assertion_leaves_the_device_usable():
    function, good = WRONG_INDICES["embedding"], torch.tensor([1, 0])
    executable = build(function, FLOATS, good)
    with pytest.raises(mlcflow.ExecutionError, match="index is out of range"):
        executable(FLOATS, torch.tensor([0, 5]))
    compare([executable(FLOATS, good)], [function(FLOATS, good)])


def test_a_launch_takes_less_than_5_microseconds():
    """Kernels that do next to nothing: time is that of the launches."""

    def chain(count):
        layers = [torch.nn.Linear(32, 32) for _ in range(count)]
        executable = build(torch.nn.Sequential(*layers).eval(), torch.randn(1, 32))
        x = np.zeros((1, 32), np.float32)
        times = []
        for _ in range(200):
            begin = time.perf_counter()
            executable(x)
            times.append(time.perf_counter() - begin)
        return min(times)

    assert (chain(110) - chain(10)) / 100 < 5e-6
