"""The rules of the pipeline for GPUs: which applies, what the kernels take, and the numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

from mlcflow.compiler import build_pipeline, import_model, load
from mlcflow.frontends import Imported
from mlcflow.gpu import ptx
from mlcflow.mlir import clone
from mlcflow.target import Target


def rules(executable):
    return re.findall(r'mlcflow.rule = "(\w+)"', str(executable.stages["schedule"]))


def agree(build, function, *inputs):
    executable = build(function, *inputs)
    actual = executable(*inputs)
    with torch.no_grad():
        wide = [x.double() if x.is_floating_point() else x for x in inputs]
        expected = function.double()(*wide) if isinstance(function, nn.Module) else function(*wide)
    torch.testing.assert_close(actual.double(), expected.double(), rtol=1e-4, atol=1e-5)
    return executable


CONTRACTIONS = {
    "one_block": (lambda a, b: a @ b, (64, 48), (48, 64)),
    "sizes_that_do_not_divide": (lambda a, b: a @ b, (33, 48), (48, 70)),
    "batch": (lambda a, b: torch.relu(a @ b), (3, 20, 48), (3, 48, 36)),
    "epilogue": (lambda a, b, c: torch.tanh(a @ b + c), (80, 64), (64, 96), (96,)),
    "depth_of_no_power_of_two": (lambda a, b: a @ b, (32, 44), (44, 32)),
}


@pytest.mark.parametrize("name", CONTRACTIONS)
def test_contractions(build, gpu, name):
    function, *shapes = CONTRACTIONS[name]
    torch.manual_seed(0)
    executable = agree(build, function, *(torch.randn(shape) for shape in shapes))
    assert rules(executable) == ["contraction"]
    (kernel,) = gpu.kernels.values()
    assert kernel.waits and len(kernel.shared) == 2


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "uint8"])
def test_elementwise_in_vectors(build, dtype):
    dtype = getattr(torch, dtype)
    x = (torch.arange(6 * 32).reshape(6, 32) % 100).to(dtype)
    executable = build(lambda x, y: x * 2 + y, x, x[0])
    assert rules(executable) == ["elementwise"]
    torch.testing.assert_close(executable(x, x[0]), x * 2 + x[0])


def test_a_thread_an_element_in_any_number_of_dimensions(build):
    """All loops of a result are one, so nothing is left for a thread to repeat."""
    x = torch.arange(2.0 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    executable = build(lambda x: x.permute(3, 1, 0, 2).contiguous(), x)
    assert rules(executable) == ["elements"]
    assert "scf.for" not in str(executable.stages["outline"])
    torch.testing.assert_close(executable(x), x.permute(3, 1, 0, 2))


def convolutions():
    torch.manual_seed(0)
    block = [nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    return {
        "epilogue": (nn.Sequential(*block), torch.randn(2, 16, 14, 14), 6 * 3072),
        "stride": (nn.Conv2d(8, 24, 3, 2, 1, bias=False), torch.randn(1, 8, 15, 15), 7680),
        "three_channels": (nn.Conv2d(3, 16, 7, 2, 3), torch.randn(1, 3, 20, 20), 0),
        "one_dimension": (nn.Conv1d(8, 16, 3), torch.randn(2, 8, 19), 4608),
    }


@pytest.mark.parametrize("name", convolutions())
def test_convolutions(build, gpu, name):
    """Products of matrices: registers hold what a thread adds up, over all of the window."""
    model, x, shared = convolutions()[name]
    executable = agree(build, model.eval(), x)
    assert rules(executable)[1] == "convolution"
    if ptx.has_ptxas():
        taken = ptx.assemble(executable.assembly(), Target.parse("cuda:sm_90"))
        (found,) = [each for name, each in taken.items() if name.startswith("conv")]
        assert found.spills == 0 and found.registers <= 80
        assert found.shared == shared or not shared
    name = next(name for name in gpu.kernels if name.startswith("conv"))
    kernel = executable.assembly(name)
    assert ".local" not in kernel and ("cp.async.cg" in kernel) == bool(shared)
    assert kernel.count("bar.sync") == (1 if shared else 2)


def models():
    torch.manual_seed(0)
    convolution = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    return {
        "mlp": (nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 8)), torch.randn(16, 32)),
        "convolution": (nn.Sequential(*convolution), torch.randn(2, 3, 8, 8)),
        "attention": (nn.TransformerEncoderLayer(32, 4, 64, batch_first=True),
                      torch.randn(2, 20, 32)),
    }  # fmt: skip


@pytest.mark.parametrize("name", models())
def test_models(build, name):
    model, x = models()[name]
    agree(build, model.eval(), x)


def test_few_blocks_have_small_tiles():
    """So that there are more: a layer of 768 features for 128 tokens."""
    imported = import_model(nn.Linear(768, 768), (torch.empty(128, 768),))
    launches = str(
        build_pipeline("cuda", "cuda:sm_90").run(imported.module, until="launch")["launch"]
    )
    text = launches[launches.index("@matmul") :]
    grid = re.search(r"gpu.launch blocks.*?= %c(\d+), %\w+ = %c(\d+)", text)
    assert int(grid[1]) * int(grid[2]) == (128 // 32) * (768 // 32)


# A tile of the result: its rows and columns, products for four steps, loads, registers.
TILES = {"large": (128, 256, 16, 184), "usual": (64, 64, 8, 80)}


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("chip", ["sm_80", "sm_90"])
def test_registers_of_a_product(chip, tile):
    """All sums of a thread stay in registers, and what it needs of shared memory comes in
    vectors: 64 products for 8 loads, or 256 for 16.
    """
    pytest.importorskip("llvmlite")
    size, products, loads, registers = TILES[tile]
    model = nn.Sequential(nn.Linear(256, 12 * size), nn.ReLU()).eval()
    imported = import_model(model, (torch.randn(12 * size, 256),))
    stages = build_pipeline("cuda", f"cuda:{chip}").run(imported.module, until="ptx")
    text = ptx.ptx_of(stages["ptx"])
    begin = text.index("entry matmul_add_select_kernel(")
    kernel = text[begin : text.index("\n}\n", begin)]
    loop = kernel[kernel.index("bar.sync") : kernel.rindex("fma.rn.f32")]
    assert ".local" not in loop and ".maxntid 16, 16, 1" in kernel
    assert kernel.count("fma.rn.f32") == products
    assert kernel.count("ld.shared.v4.b32") == kernel.count("ld.shared") == loads
    assert kernel.count("bar.sync") == 1
    # Two tiles of each factor before the loop, one in it, a piece or two of each by every thread.
    assert kernel.count("cp.async.cg") == 6 * size // 64 and kernel.count("cp.async.wait") == 1
    if ptx.has_ptxas():
        taken = ptx.assemble(text, Target.parse(f"cuda:{chip}"))["matmul_add_select_kernel"]
        assert taken.spills == 0 and taken.registers <= registers
        assert taken.shared == 3 * 2 * size * 16 * 4


ROWS = {
    "softmax": (nn.Softmax(-1), (5, 100)),
    "softmax_long": (nn.Softmax(-1), (3, 4096)),
    "layer_norm": (nn.LayerNorm(96), (2, 4, 96)),
    "four_dimensions": (nn.Softmax(-1), (2, 3, 2, 64)),
    "sum": (lambda x: x.sum(-1), (7, 300)),
    "mean_and_more": (lambda x: torch.tanh(x.mean(-1)), (4, 77)),
    "max": (lambda x: x.amax(-1), (6, 64)),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows(build, gpu, name):
    function, shape = ROWS[name]
    torch.manual_seed(0)
    executable = agree(build, function, torch.randn(shape))
    assert rules(executable) == ["rows"]
    (kernel,) = gpu.kernels.values()
    assert kernel.waits
    assert "gpu.shuffle" in str(executable.stages["outline"])


@pytest.mark.parametrize("dtype", ["float64", "int32", "int64"])
def test_rows_of_other_types(build, dtype):
    x = (torch.arange(3 * 70).reshape(3, 70) - 100).to(getattr(torch, dtype))
    executable = build(lambda x: x.sum(-1, dtype=x.dtype), x)
    assert rules(executable) == ["rows"]
    torch.testing.assert_close(executable(x), x.sum(-1, dtype=x.dtype))


def test_rows_too_long_for_shared_memory(build):
    executable = agree(build, nn.Softmax(-1), torch.randn(2, 9000))
    assert "rows" not in rules(executable)


def test_order_of_sums(build):
    """Without ``fast_math`` a thread adds up a row in order."""
    x = torch.randn(4, 200)
    executable = build(lambda x: x.sum(-1), x, options={"fast_math": False})
    assert rules(executable) == ["elements"]
    expected = torch.zeros(4)
    for column in x.T:
        expected = expected + column
    assert torch.equal(executable(x), expected)


@pytest.mark.parametrize("name", ["convolution", "attention"])
def test_the_reference_runs_every_stage_before_the_launches(name):
    model, x = models()[name]
    imported = import_model(model.eval(), (x,))
    stages = build_pipeline("cuda", "cuda:sm_90").run(imported.module, until="vectors")
    with torch.no_grad():
        expected = model(x).numpy()
    for module in stages.values():
        stage = Imported(clone(module), imported.parameters)
        result = load(stage, build_pipeline("reference"))(x.numpy())
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_vectors_where_nothing_is_aligned():
    """Overlapping tiles begin anywhere: no access may say that it is aligned."""
    pytest.importorskip("llvmlite")
    a, b = torch.randn(33, 44), torch.randn(44, 71)
    imported = import_model(lambda a, b: a @ b, (a, b))
    stages = build_pipeline("cuda", "cuda:sm_90").run(imported.module, until="ptx")
    text = ptx.ptx_of(stages["ptx"])
    assert "ld.global.nc.v" not in text and "st.global.v" not in text
