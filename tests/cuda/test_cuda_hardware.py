"""On a machine with a GPU of NVIDIA: ``pytest -m gpu``."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import test_cuda_maps
import test_cuda_shared
import test_cuda_warpgroups
import torch
from test_cuda_driver import layers
from test_cuda_rules import CONTRACTIONS, ROWS, convolutions, models
from test_cuda_tensor_cores import PRODUCTS
from test_operations import FLOATS, VALUES, WRONG_INDICES

import mlcflow
from mlcflow.check.compare import compare
from mlcflow.compiler import build_pipeline, load
from mlcflow.frontends import Imported
from mlcflow.gpu.driver import has_driver
from mlcflow.gpu.mma_form import WGMMA_CHIPS
from mlcflow.mlir import parse
from mlcflow.target import CUDA_CHIPS, Target

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


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_tensor_cores(name, dtype):
    function, *shapes = PRODUCTS[name]
    inputs = [torch.randn(shape).to(getattr(torch, dtype)) for shape in shapes]
    executable = build(function, *inputs, options={"precision": "tf32"}, verify=False)
    expected = function(*(x.double() for x in inputs))
    scale = inputs[0].double().abs() @ inputs[1].double().abs() + expected.abs() + 1
    bound = 3 * (2.0**-8 if dtype == "bfloat16" else 2.0**-11) * scale
    assert ((executable(*inputs).double() - expected).abs() <= bound).all()


@pytest.mark.parametrize("cores", [1, 132])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", test_cuda_warpgroups.PRODUCTS)
def test_warpgroups(name, dtype, cores):
    """With the largest tiles that fit, and the usual ones."""
    target = Target.host_gpu()
    if target.chip not in WGMMA_CHIPS:
        pytest.skip(f"{target.chip} has no warpgroups")
    function, *shapes = test_cuda_warpgroups.PRODUCTS[name]
    inputs = [torch.randn(shape).to(getattr(torch, dtype)) for shape in shapes]
    executable = build(function, *inputs, target=replace(target, cores=cores), verify=False)
    test_cuda_warpgroups.check(executable, function, inputs)


@pytest.mark.parametrize("name", convolutions())
def test_convolutions(name):
    model, x, _ = convolutions()[name]
    build(model.eval(), x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU")
def test_tensors_on_the_device():
    model, x = layers()
    executable = build(model, x)
    stream = torch.cuda.Stream()
    with torch.no_grad(), torch.cuda.stream(stream):
        found = executable(x.cuda())
        assert found.is_cuda
        torch.testing.assert_close(found.cpu(), model(x))
    for _ in range(3):  # from the second on a graph
        compare([executable(x)], [model(x)])


def test_a_saved_model(tmp_path):
    model, x = layers()
    build(model, x).save(tmp_path)
    np.save(tmp_path / "x.npy", x.numpy())
    command = [sys.executable, "-I", "loader.py", "x.npy"]
    subprocess.run(command, cwd=tmp_path, check=True)
    compare([np.load(tmp_path / "output0.npy")], [model(x).detach().numpy()])


def test_a_large_product():
    a, b = torch.randn(1024, 2048), torch.randn(2048, 512)
    executable = build(lambda a, b: a @ b, a, b, verify=False)
    expected = a.double() @ b.double()
    bound = 2048 * 2**-24 * (a.abs().double() @ b.abs().double())
    assert ((executable(a, b).double() - expected).abs() <= bound).all()


def test_a_block_that_shares_more_than_a_kernel_declares():
    executable = test_cuda_shared.make("cuda")
    for _ in range(2):
        a, b = test_cuda_shared.arrays()
        test_cuda_shared.check(executable(a, b), a, b)


def test_a_tensor_map():
    """The chip finds the array by the map that host code has made."""
    chips = list(CUDA_CHIPS)
    if chips.index(Target.host_gpu().chip) < chips.index("sm_90"):
        pytest.skip("the GPU is older than sm_90")
    module = parse(test_cuda_maps.copy(swizzle="none"))
    executable = load(Imported(module), build_pipeline("cuda", "cuda"), start="launch")
    a = np.arange(96 * 128).reshape(96, 128).astype(test_cuda_maps.bfloat16(1).dtype)
    found = np.diag(executable(a).astype(np.float32))
    np.testing.assert_array_equal(found, np.diag(a)[:64].astype(np.float32))


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
