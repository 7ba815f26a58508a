"""Products on tensor cores: the numbers, what the chip is asked for, and what is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from test_cuda_rules import rules
from torch import nn

import mlcflow
from mlcflow import pipelines
from mlcflow.compiler import import_model
from mlcflow.gpu import ptx
from mlcflow.gpu.async_copies import STAGES
from mlcflow.gpu.program import lower_program
from mlcflow.mlir import nvvm, walk
from mlcflow.schedule.program import load_program
from mlcflow.target import Target

EPSILON = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-11}
"""Of rounding to the element type of the result; of f32 factors to tf32."""


def gelu_residual(a, b, c):
    return torch.nn.functional.gelu(a @ b) + c


PRODUCTS = {
    "one_warp": (lambda a, b: a @ b, (16, 32), (32, 32)),
    "tiles_that_overlap": (lambda a, b: torch.relu(a @ b), (50, 80), (80, 72)),
    "batch": (lambda a, b: a @ b, (3, 32, 48), (3, 48, 40)),
    "epilogue": (gelu_residual, (64, 32), (32, 64), (64, 64)),
    "several_warps": (lambda a, b: a @ b, (64, 64), (64, 64)),
}


def product_of(build, name, dtype, **options):
    function, *shapes = PRODUCTS[name]
    torch.manual_seed(0)
    inputs = [torch.randn(shape).to(getattr(torch, dtype)) for shape in shapes]
    executable = build(function, *inputs, **options)
    actual = executable(*inputs).double()
    a, b = inputs[0].double(), inputs[1].double()
    expected = function(*(x.double() for x in inputs))
    bound = 3 * EPSILON[dtype] * (a.abs() @ b.abs() + expected.abs() + 1)
    assert ((actual - expected).abs() <= bound).all()
    return executable, (actual - expected).abs().max()


CASES = [(name, "float16") for name in PRODUCTS]
CASES += [("tiles_that_overlap", "bfloat16"), ("epilogue", "bfloat16")]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_products(build, gpu, name, dtype):
    executable, _ = product_of(build, name, dtype)
    assert rules(executable) == ["tensor_cores"]
    assert all(kernel.warps.conflicts == 0 for kernel in gpu.kernels.values())


@pytest.mark.parametrize("name", ["tiles_that_overlap", "epilogue"])
def test_products_of_f32_rounded_by_choice(build, gpu, name):
    executable, error = product_of(build, name, "float32", options={"precision": "tf32"})
    assert rules(executable) == ["tensor_cores"] and error > 1e-5
    assert all(kernel.warps.conflicts == 0 for kernel in gpu.kernels.values())


@pytest.mark.parametrize(
    ("dtype", "stride"), [("float32", 1), ("float32", 2), ("float16", 1), ("bfloat16", 2)]
)
def test_convolutions(build, gpu, dtype, stride):
    """Pixels of an image are the rows of a matrix, wherever they lie; f32 by choice."""
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    layers = [nn.Conv2d(16, 32, 3, stride, 1), nn.ReLU()]
    model = nn.Sequential(*layers).eval().to(kind)
    x = torch.randn(1, 16, 8 * stride, 8 * stride).to(kind)
    options = {"precision": "tf32"} if dtype == "float32" else {}
    executable = build(model, x, options=options)
    (name,) = (name for name in gpu.kernels if name.startswith("conv"))
    text = executable.assembly(name)
    # A warp: 32 pixels by 32 channels, 16 input channels at a time.
    assert text.count("mma.sync") == (16 if dtype == "float32" else 8) and ".local" not in text
    with torch.no_grad():
        wide = model.double()(x.double())
        error = (executable(x).double() - wide).abs()
    assert (error <= EPSILON[dtype] * (4 + wide.abs())).all() and error.max() > 1e-5
    assert gpu.kernels[name].warps.conflicts == 0


def test_f32_is_exact_unless_one_asks(build):
    executable, error = product_of(build, "several_warps", "float32")
    assert rules(executable) == ["contraction"] and error < 1e-4
    with pytest.raises(mlcflow.MlcflowError, match="did you mean 'tf32'"):
        product_of(build, "one_warp", "float32", options={"precision": "tf3"})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_layers_read_what_they_are_given(build, dtype):
    """Frontends widen the factors of a linear layer; the kernel reads them as they are."""
    torch.manual_seed(0)
    model = nn.Linear(32, 64).eval().to(getattr(torch, dtype))
    x = torch.randn(32, 32).to(getattr(torch, dtype))
    executable = build(model, x)
    assert "tensor_cores" in rules(executable)
    with torch.no_grad():
        torch.testing.assert_close(executable(x), model(x), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(("dtype", "chip"), [("float16", "sm_80"), ("bfloat16", "sm_90"),
                                             ("float32", "sm_90")])  # fmt: skip
def test_what_a_large_product_takes(dtype, chip):
    """Sums in registers and nothing spilled; two blocks fit on a multiprocessor."""
    pytest.importorskip("llvmlite")
    exact = dtype != "float32"
    options = {} if exact else {"precision": "tf32"}
    pipeline = pipelines.build("cuda", Target.parse(f"cuda:{chip}"), **options)
    a, b = torch.empty(2048, 1024), torch.empty(1024, 2048)
    inputs = [x.to(getattr(torch, dtype)) for x in (a, b)]
    imported = import_model(lambda a, b: torch.relu(a @ b), tuple(inputs))
    text = ptx.ptx_of(pipeline.run(imported.module, until="ptx")["ptx"])
    assert text.count(".entry") == 1 and ".maxntid 32, 4, 2" in text
    assert text.count("mma.sync") == 32 and text.count("cp.async.cg") == 12
    # A warp reads 64 x 32 of A and 32 x 32 of B for them; f32 of B one by one.
    assert text.count("ldmatrix") == (12 if exact else 8)
    assert text.count("ld.shared") == (0 if exact else 16)
    assert text.count("cp.async.wait") == 1 and text.count("bar.sync") == 1
    assert ".local" not in text and set(re.findall(r"\.shared \.align (\d+)", text)) == {"1024"}
    if ptx.has_ptxas():
        (taken,) = ptx.assemble(text, Target.parse(f"cuda:{chip}")).values()
        assert taken.spills == 0 and taken.registers <= 128 and taken.shared == 48 << 10


def program(factors="A[i, k] * B[j, k]", b=(64, 64)):
    function = mlcflow.einsum_function(
        f"C[i, j] += {factors}", A=((64, 64), "float32"), B=(b, "float32")
    )
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(shape, np.float32) for shape in ((64, 64), b)]
    return function.module, *arrays


def by_warps(schedule, block):
    loops = [loop for loop in schedule.loops(block) if loop.op is None][:2]
    for loop, axis in zip(loops, ("thread.z", "thread.y"), strict=True):
        outer, _ = schedule.split(loop, [None, 32])
        schedule.bind(outer, axis)


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_a_schedule_by_hand(run_program, copied, turned):
    """B[j, k] as it lies; factors in shared memory, or where they are."""
    factors = "A[i, k] * B[j, k]" if turned else "A[i, k] * B[k, j]"
    module, a, b = program(factors)
    schedule = mlcflow.Schedule(module)
    blocks = schedule.tile_and_fuse("root", [64, 32])
    write = schedule.cache_write("root")
    schedule.split("root.k", [None, 16])
    for operand in (0, 1) if copied else ():
        schedule.annotate(schedule.cache_read("root", operand), "stages", "2")
    schedule.bind(blocks[1], "block.x")
    for block in ("fill0", "root", write):
        by_warps(schedule, block)
    schedule.tensorize("root", "nvgpu.mma.tf32")
    expected = a.astype(np.float64) @ (b.T if turned else b)
    np.testing.assert_allclose(load_program(module)(a, b), expected, rtol=1e-4, atol=1e-4)
    found = run_program(module, a, b)
    bound = 2 * 2.0**-11 * np.abs(a) @ np.abs(b.T if turned else b)
    assert (np.abs(found - expected) <= bound).all() and np.abs(found - expected).max() > 1e-4


def test_what_waits_for_nothing_computes_nonsense(gpu):
    """The driver of the tests does copies when they are waited for, and not before."""
    module, a, b = program()
    schedule = mlcflow.Schedule(module)
    blocks = schedule.tile_and_fuse("root", [32, 32])
    write = schedule.cache_write("root")
    schedule.split("root.k", [None, 16])
    for operand in (0, 1):
        schedule.annotate(schedule.cache_read("root", operand), "stages", "2")
    for loop, axis in zip(blocks, ("block.y", "block.x"), strict=True):
        schedule.bind(loop, axis)
    assert write in schedule.blocks()
    schedule.tensorize("root", "nvgpu.mma.tf32")
    outlined = lower_program(module, until="outline")["outline"]
    results = []
    for _ in range(2):
        gpu.take(outlined)
        (kernel,) = gpu.kernels.values()
        c = np.zeros((64, 64), np.float32)
        words = [array.ctypes.data for array in (a, b, c)]
        kernel(words, (2, 2, 1), (32, 1, 1))
        results.append(c)
        for op in walk(outlined.operation):
            if isinstance(op, nvvm.CpAsyncWaitGroupOp):
                op.operation.erase()
    assert np.isfinite(results[0]).all() and not np.isfinite(results[1]).any()


REFUSED = {
    "tile": (lambda s: s.tensorize("root", "nvgpu.mma.tf32"), "more than 512; tile it first"),
    "type": (lambda s: s.tensorize("root", "nvgpu.mma"), "its factors are f32"),
    "no_product": (lambda s: s.tensorize("fill0", "nvgpu.mma"), "no contraction"),
    "target": (lambda s: s.tensorize("root", "nvgpu.mma", Target.host()), "no tensor cores"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    function = mlcflow.einsum_function(
        "C[i, j] += A[i, k] * B[k, j]", A=((256, 128), "float32"), B=((128, 128), "float32")
    )
    attempt, message = REFUSED[name]
    with pytest.raises(mlcflow.ScheduleError, match=message):
        attempt(mlcflow.Schedule(function.module))


def test_tiles_of_no_whole_instructions():
    module, *_ = program(b=(20, 64))
    with pytest.raises(mlcflow.ScheduleError, match="expected multiples of 8 of 20"):
        mlcflow.Schedule(module).tensorize("root", "nvgpu.mma.tf32")


def test_copies_of_rows_that_are_not_whole(gpu):
    function = mlcflow.einsum_function(
        "C[i, j] += A[i, k] * B[k, j]", A=((16, 16), "float32"), B=((16, 18), "float32")
    )
    module = function.module
    schedule = mlcflow.Schedule(module)
    loops = schedule.tile_and_fuse("root", [16, 6])
    schedule.bind(loops[1], "block.x")
    schedule.annotate(schedule.cache_read("root", 1), STAGES.removeprefix("mlcflow."), "2")
    with pytest.raises(mlcflow.LoweringError, match="expected rows of whole 16 bytes"):
        lower_program(module, until="launch")
