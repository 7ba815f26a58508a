"""Products by warpgroups: the numbers, what the chip is asked for, and what is refused."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import torch
from test_cuda_rules import rules
from test_cuda_save import loaded
from test_cuda_tensor_cores import gelu_residual
from torch import nn

import mlcflow
from mlcflow import pipelines
from mlcflow.compiler import import_model
from mlcflow.gpu import ptx
from mlcflow.gpu.program import lower_program
from mlcflow.mlir import parse
from mlcflow.target import Target

CHIP = Target("cuda", chip="sm_90a")
SMALL = replace(CHIP, cores=1)
"""With a single multiprocessor, so that the largest tiles that fit are taken."""

PRODUCTS = {
    "one_tile": (lambda a, b: a @ b, (64, 64), (64, 64)),
    "turns": (lambda a, b: a @ b, (64, 448), (448, 64)),
    "two_groups": (lambda a, b: torch.relu(a @ b), (128, 192), (192, 256)),
    "many_turns": (lambda a, b: a @ b, (128, 576), (576, 128)),
    "tiles_that_overlap": (lambda a, b: torch.relu(a @ b), (150, 128), (128, 88)),
    "lines_of_64_bytes": (lambda a, b: a @ b, (64, 96), (96, 64)),
    "batch": (lambda a, b: a @ b, (2, 64, 128), (2, 128, 72)),
    "epilogue": (gelu_residual, (64, 128), (128, 128), (64, 128)),
}
EPSILON = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize("name", PRODUCTS)
def test_products(build, gpu, name, dtype):
    function, *shapes = PRODUCTS[name]
    torch.manual_seed(0)
    inputs = [torch.randn(shape).to(getattr(torch, dtype)) for shape in shapes]
    executable = build(function, *inputs, target=SMALL)
    assert rules(executable) == ["warpgroups"]
    check(executable, function, inputs)


def check(executable, function, inputs):
    """Compare results with those of f64."""
    actual = executable(*inputs).double()
    a, b = inputs[0].double(), inputs[1].double()
    expected = function(*(x.double() for x in inputs))
    scale = a.abs() @ b.abs() + expected.abs() + 1
    bound = 3 * EPSILON[str(inputs[0].dtype).removeprefix("torch.")] * scale
    assert ((actual - expected).abs() <= bound).all()


def compiled(function, *shapes):
    inputs = tuple(torch.empty(shape, dtype=torch.bfloat16) for shape in shapes)
    stages = pipelines.build("cuda", CHIP).run(import_model(function, inputs).module, until="ptx")
    return ptx.ptx_of(stages["ptx"])


@pytest.mark.parametrize("name", ["plain", "epilogue"])
def test_what_a_large_product_takes(name):
    """A loop of nothing but the product and copies for later; sums in registers all along."""
    pytest.importorskip("llvmlite")
    size = (4096, 4096)
    shapes = [size] * (2 if name == "plain" else 3)
    text = compiled((lambda a, b: a @ b) if name == "plain" else gelu_residual, *shapes)
    assert text.count(".entry") == 1 and ".maxntid 32, 8, 1" in text and ".local" not in text
    assert text.count("wgmma.mma_async.sync.aligned.m64n256k16") == 4  # 64 steps of the reduction
    assert "\tmma.sync" not in text and "ld.shared" not in text and "st.shared" not in text
    # Of A a box of 128 x 64, of B four of 64 x 64: three times before the loop, once in it.
    assert text.count("cp.async.bulk.tensor.2d") == 4 * 5 and "cp.async.cg" not in text
    assert text.count("bar.sync") == 1 and text.count("mbarrier.try_wait") == 2
    if ptx.has_ptxas():
        (taken,) = ptx.assemble(text, CHIP).values()
        assert taken.spills == 0 and taken.loss == ""


@pytest.mark.parametrize("stages", ["2", "4"])
@pytest.mark.parametrize("by", ["", "tma"])
def test_copies_by_hand(gpu, build, monkeypatch, by, stages):
    """By the threads of the block or by the chip, tiles of one array and of another."""
    annotate = mlcflow.Schedule.annotate

    def changed(schedule, block, key, value):
        if key != "by" or by:
            annotate(schedule, block, key, stages if key == "stages" else value)

    monkeypatch.setattr(mlcflow.Schedule, "annotate", changed)
    inputs = [torch.randn(shape).half() for shape in ((64, 320), (320, 64))]
    executable = build(torch.mm, *inputs, target=SMALL)
    assert ("cp.async.bulk" in executable.assembly()) == bool(by)
    check(executable, torch.mm, inputs)


GRIDS = {
    "a_part_of_k": ((512, 64), (64, 512), (8, 8, 1)),
    "batch": ((8, 64, 64), (8, 64, 64), (8, 1, 1)),
    "many_rows": ((128 * 65537, 128), (128, 512), (65537, 2, 1)),
    "groups": ((4096, 64), (64, 4096), (16, 16, 2)),
}


@pytest.mark.parametrize("name", GRIDS)
def test_blocks_of_a_grid(name):
    """One for each tile, also where a single step of the reduction leaves no loop for it; no more
    along y and z than a launch can have.
    """
    *shapes, expected = GRIDS[name]
    inputs = tuple(torch.empty(shape, dtype=torch.bfloat16, device="meta") for shape in shapes)
    stages = pipelines.build("cuda", CHIP).run(
        import_model(torch.matmul, inputs).module, until="launch"
    )
    found = re.search(r"gpu.launch blocks.*? in \((.*?)\)", str(stages["launch"]))
    assert tuple(int(size) for size in re.findall(r"%c(\d+)", found[1])) == expected


def test_losses_are_reported():
    """Sums that are read before they are awaited: ptxas lets products wait for each other."""
    if not ptx.has_ptxas():
        pytest.skip("needs ptxas")
    text = compiled(lambda a, b: a @ b, (512, 512), (512, 512))
    late = re.sub(r"(wgmma.wait_group.sync.aligned\s+)0", r"\g<1>1", text)
    (taken,) = ptx.assemble(late, CHIP).values()
    assert "wgmma.mma_async instructions are serialized" in taken.loss


def test_other_chips_have_none(build):
    x = torch.randn(64, 64, dtype=torch.bfloat16)
    assert rules(build(torch.mm, x, x, target="cuda:sm_90")) == ["tensor_cores"]


PROGRAM = """
func.func @main(%a: tensor<128x64xf16>, %b: tensor<64x{n}xf16>) -> tensor<128x{n}xf32> {{
  %zero = arith.constant 0.0 : f32
  %empty = tensor.empty() : tensor<128x{n}xf32>
  %start = linalg.fill ins(%zero : f32) outs(%empty : tensor<128x{n}xf32>) -> tensor<128x{n}xf32>
  %c = linalg.matmul ins(%a, %b : tensor<128x64xf16>, tensor<64x{n}xf16>)
                     outs(%start : tensor<128x{n}xf32>) -> tensor<128x{n}xf32>
  return %c : tensor<128x{n}xf32>
}}"""


def by_hand(rows=16, columns=64, stages=True, second=1, by=(), serial=False):
    """A product with rows for each warp, and columns for a ``second`` axis, as launches."""
    module = parse(PROGRAM.format(n=2 * columns))
    schedule = mlcflow.Schedule(module)
    blocks = schedule.tile_and_fuse("root", [64, columns])
    write = schedule.cache_write("root")
    schedule.split("root.k", [None, 32])
    for operand in (0, 1) if stages else ():
        copy = schedule.cache_read("root", operand)
        schedule.annotate(copy, "stages", "2")
        if operand in by:
            schedule.annotate(copy, "by", "tma")
    for block in ("fill0", "root", write):
        inside = [each for each in schedule.loops(block) if each.op is None][:2]
        sizes = (rows, columns // second)
        for loop, axis, size in zip(inside, ("thread.y", "thread.z"), sizes, strict=True):
            outer, _ = schedule.split(loop, [None, size])
            if not outer.is_gone:
                schedule.bind(outer, axis)
    for loop, axis in zip(blocks, ("block.y", "block.x"), strict=True):
        if axis == "block.x" or not serial:
            schedule.bind(loop, axis)
    schedule.tensorize("root", "nvvm.wgmma", CHIP)
    return lower_program(module, CHIP, until="launch")["launch"]


def test_a_schedule_by_hand():
    assert str(by_hand()).count("nvvm.wgmma.mma_async") == 2


REFUSED = {
    "rows": ({"rows": 32}, mlcflow.ScheduleError, "expected 16 rows, those of one warp of four"),
    "warps": ({"second": 2}, mlcflow.LoweringError, "along one axis of threads"),
    "some_by_tma": ({"by": (0,)}, mlcflow.LoweringError, 'all of them, or none, by "tma"'),
    "serial": ({"by": (0, 1), "serial": True}, mlcflow.LoweringError, "only those of blocks"),
    "memory": ({"stages": False}, mlcflow.LoweringError, "expected A in shared memory"),
    "lines": ({"columns": 48}, mlcflow.LoweringError, "found 96"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    changes, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        by_hand(**changes)


def test_chips_without_warpgroups():
    other = Target("cuda", chip="sm_100a")
    with pytest.raises(mlcflow.ScheduleError, match="sm_100a has no instructions of warpgroups"):
        mlcflow.Schedule(parse(PROGRAM.format(n=64))).tensorize("root", "nvvm.wgmma", other)


def test_layers_of_a_model(build, gpu, tmp_path):
    """Parameters, intermediate results and batches behind tensor maps; from the second call on as a
    graph; and saved.
    """
    torch.manual_seed(0)
    layers = [nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)]
    model = nn.Sequential(*layers).eval().bfloat16()
    x = torch.randn(2, 64, 64).bfloat16()
    executable = build(model, x, target=SMALL)
    assert rules(executable).count("warpgroups") == 2
    with torch.no_grad():
        for number in range(3):
            y = (x * (number + 1)).clone()
            exact = copy.deepcopy(model).double()(y.double())
            torch.testing.assert_close(executable(y).double(), exact, rtol=2e-2, atol=2e-2)
    assert gpu.calls.count("cuGraphLaunch") >= 1
    executable.save(tmp_path)
    again, _ = loaded(tmp_path, gpu)
    found = again(y.view(torch.int16).numpy().view(ml_dtypes.bfloat16))
    np.testing.assert_array_equal(found.astype(np.float32), executable(y).float().numpy())
