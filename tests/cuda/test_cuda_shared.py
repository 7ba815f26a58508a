"""Blocks that share more memory than a kernel may declare."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from cpu_shared import RESERVED, WINDOW
from fake_driver import INVALID, MAX_DYNAMIC_SHARED, MOST_SHARED
from hypothesis import given
from hypothesis import strategies as st
from test_cuda_save import loaded

import mlcflow
from mlcflow.compiler import build_pipeline, load
from mlcflow.frontends import Imported
from mlcflow.gpu import graphs, ptx
from mlcflow.gpu.dynamic_memory import lay_out
from mlcflow.gpu.host_calls import shared_of
from mlcflow.gpu.memory import TILE
from mlcflow.gpu.program import lower_program
from mlcflow.graph.interface import normalize_interface
from mlcflow.mlir import clone, gpu, ir, parse, walk
from mlcflow.target import Target

RANDOM = np.random.default_rng(0)
BYTES = 2 * 2 * 32 * 256 * 4  # two stages of two tiles


def program(depth=256):
    """A block computes 32 x 32 results from tiles of 32 x ``depth`` elements of each factor."""
    shapes = {"A": ((32, 2 * depth), "float32"), "B": ((64, 2 * depth), "float32")}
    module = mlcflow.einsum_function("C[i, j] += A[i, k] * B[j, k]", **shapes).module
    schedule = mlcflow.Schedule(module)
    blocks = schedule.tile_and_fuse("root", [32, 32])
    write = schedule.cache_write("root")
    schedule.split("root.k", [None, depth])
    for operand in (0, 1):
        schedule.annotate(schedule.cache_read("root", operand), "stages", "2")
    schedule.bind(blocks[1], "block.x")
    for block in ("fill0", "root", write):
        loops = [loop for loop in schedule.loops(block) if loop.op is None][:2]
        for loop, axis in zip(loops, ("thread.z", "thread.y"), strict=True):
            outer, _ = schedule.split(loop, [None, 32])
            schedule.bind(outer, axis)
    schedule.tensorize("root", "nvgpu.mma.tf32")
    return module


def arrays():
    return [RANDOM.standard_normal(shape, np.float32) for shape in ((32, 512), (64, 512))]


def check(found, a, b):
    bound = 2 * 2.0**-11 * np.abs(a) @ np.abs(b.T)
    assert (np.abs(found - a.astype(np.float64) @ b.T) <= bound).all()


@pytest.fixture
def executable(gpu):
    return make(on_stage=gpu.on_stage)


def make(target="cuda:sm_90", **options):
    """The program, loaded."""
    pytest.importorskip("llvmlite")
    module = clone(program())
    with module.context, ir.Location.unknown():
        normalize_interface(module)
    return load(Imported(module), build_pipeline("cuda", target), start="bufferize", **options)


def test_numbers(gpu, executable):
    a, b = arrays()
    check(executable(a, b), a, b)
    (kernel,) = gpu.kernels.values()
    assert not kernel.shared and kernel.memory.declared == 0 and kernel.memory.window == 0
    assert list(shared_of(executable.stages["llvm"]).values()) == [BYTES]
    assert gpu.calls.count("cuFuncSetAttribute") == 2


def test_as_a_graph(gpu, monkeypatch):
    monkeypatch.setattr(graphs, "FEWEST", 1)
    executable = make(on_stage=gpu.on_stage)
    for _ in range(2):
        a, b = arrays()
        check(executable(a, b), a, b)
    assert gpu.calls.count("cuGraphLaunch") == 1 and len(gpu.launched) == 2


def test_saved(gpu, executable, tmp_path):
    executable.save(tmp_path)
    (launch,) = json.loads((tmp_path / "program.json").read_text())["functions"]["main"]["launches"]
    assert launch["shared"] == BYTES
    again, module = loaded(tmp_path, gpu)
    a, b = arrays()
    check(again(a, b), a, b)
    gpu.fail["cuFuncSetAttribute"] = INVALID
    with pytest.raises(module.LoadError, match="cuFuncSetAttribute: CUDA_ERROR_INVALID_VALUE"):
        module.load(tmp_path, gpu)


def test_what_the_fake_refuses(gpu, executable):
    (name,) = gpu.kernels
    handle = gpu._names.index(name) + 1
    assert gpu.cuFuncSetAttribute(handle, MAX_DYNAMIC_SHARED, MOST_SHARED + 1) == INVALID
    assert gpu.cuFuncSetAttribute(handle, MAX_DYNAMIC_SHARED, BYTES - 1) == 0
    with pytest.raises(mlcflow.ExecutionError, match=f"'{name}': CUDA_ERROR_INVALID_VALUE"):
        executable(*arrays())


@pytest.mark.parametrize("chip", ["sm_80", "sm_90"])
def test_what_the_assembler_says(chip):
    pytest.importorskip("llvmlite")
    target = Target.parse(f"cuda:{chip}")
    stages = lower_program(program(), target)
    text = ptx.ptx_of(stages["ptx"])
    assert re.findall(r"(\S*) \.shared \.align (\d+)", text) == [(".extern", "1024")]
    if ptx.has_ptxas():
        shared = shared_of(stages["llvm"])
        (taken,) = ptx.assemble(text, target, shared).values()
        assert taken.shared == BYTES and taken.spills == 0


def test_more_than_the_chip_has():
    message = r"kernel 'main_kernel' needs 262144 bytes .* sm_90 can have 232448"
    with pytest.raises(mlcflow.LoweringError, match=message):
        lower_program(program(depth=512), until="outline")
    with pytest.raises(mlcflow.LoweringError, match="sm_86 can have 101376"):
        lower_program(program(), "cuda:sm_86", until="outline")


def test_what_a_kernel_may_declare_stays_declared():
    outlined = lower_program(program(depth=64), until="outline")["outline"]
    assert "dynamic_shared_memory" not in str(outlined)
    (launch,) = [op for op in walk(outlined.operation) if isinstance(op, gpu.LaunchFuncOp)]
    assert launch.dynamicSharedMemorySize is None


@given(st.lists(st.integers(1, 50).flatmap(lambda n: st.sampled_from([n, 1024 * n])), max_size=8))
def test_buffers_lie_apart(sizes):
    places, end = lay_out(sizes)
    taken = sorted(zip(places, sizes, strict=True))
    assert all(place % (16 if size % 256 else TILE) == 0 for place, size in taken)
    ends = [place + size for place, size in taken]
    assert all(low <= place for low, (place, _) in zip(ends, taken[1:], strict=False))
    assert end == max(ends, default=0) <= sum(sizes) + 1024 * len(sizes)


BESIDE = """
gpu.module @k { gpu.func @k(%a: memref<4xi64>)
    workgroup(%x: memref<5xi8, #gpu.address_space<workgroup>>,
              %y: memref<4xf32, #gpu.address_space<workgroup>> {llvm.align = 16 : i64}) kernel {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c2 = arith.constant 2 : index
  %d = gpu.dynamic_shared_memory : memref<?xi8, #gpu.address_space<workgroup>>
  %at = memref.load %a[%c0] : memref<4xi64>
  %place = arith.index_cast %at : i64 to index
  %zero = arith.constant 0 : i8
  memref.store %zero, %d[%place] : memref<?xi8, #gpu.address_space<workgroup>>
  %py = memref.extract_aligned_pointer_as_index %y
    : memref<4xf32, #gpu.address_space<workgroup>> -> index
  %pd = memref.extract_aligned_pointer_as_index %d
    : memref<?xi8, #gpu.address_space<workgroup>> -> index
  %iy = arith.index_cast %py : index to i64
  %id = arith.index_cast %pd : index to i64
  memref.store %iy, %a[%c1] : memref<4xi64>
  memref.store %id, %a[%c2] : memref<4xi64>
  gpu.return } }
"""


def test_the_window_of_the_fake(gpu):
    gpu.take(parse(BESIDE))
    kernel = gpu.kernels["k"]
    seen = []
    start = kernel.memory.start_block
    kernel.memory.start_block = lambda: (start(), seen.append(kernel.memory.window))
    words = np.array([99, 0, 0, 0])
    kernel([words.ctypes.data], (2, 1, 1), (1, 1, 1), 100)
    assert len(seen) == 2 and seen[0] % WINDOW == 0
    # Both buffers are aligned to 16 bytes, and to no more.
    assert words[1] - seen[0] == RESERVED + 48 and words[2] - seen[0] == RESERVED + TILE
    words[0] = 100
    with pytest.raises(Exception, match="beyond its shared memory"):
        kernel([words.ctypes.data], (1, 1, 1), (1, 1, 1), 100)
