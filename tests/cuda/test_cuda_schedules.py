"""Bound loops compute the same as blocks and threads, barriers and shared memory included."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_threads import Divergence

import mlcflow
from mlcflow.gpu.program import lower_program
from mlcflow.mlir import parse

RANDOM = np.random.default_rng(0)


def matmul(m, n, k):
    function = mlcflow.einsum_function(
        "C[i, j] += A[i, k] * B[k, j]", A=((m, k), "float32"), B=((k, n), "float32")
    )
    a = RANDOM.standard_normal((m, k), np.float32)
    b = RANDOM.standard_normal((k, n), np.float32)
    return function.module, a, b


def check_product(result, a, b):
    np.testing.assert_allclose(result, a.astype(np.float64) @ b, rtol=1e-4, atol=1e-4)


def test_shared_tiles(gpu, run_program):
    module, a, b = matmul(16, 24, 32)
    schedule = mlcflow.Schedule(module)
    schedule.tile_and_fuse("root", [8, 8])
    schedule.split("root.k", [None, 16])
    copies = [schedule.cache_read("root", number) for number in (0, 1)]
    schedule.bind("root.i_0", "block.y")
    schedule.bind("root.j_0", "block.x")
    for name in ("root", *copies):
        rows, columns = [loop for loop in schedule.loops(name) if loop.op is None][:2]
        schedule.bind(rows, "thread.y")
        schedule.bind(columns, "thread.x")
    outlined = str(lower_program(module, until="outline")["outline"])
    assert outlined.count("#gpu.address_space<workgroup>> {llvm.align = 1024") == 2
    check_product(run_program(module, a, b), a, b)
    (kernel,) = gpu.kernels.values()
    assert kernel.waits and len(kernel.shared) == 2
    assert gpu.launched == [kernel.name]


def test_work_that_the_threads_of_a_block_share(gpu, run_program):
    """Copies whose loops are bound to nothing."""
    module, a, b = matmul(8, 12, 20)
    schedule = mlcflow.Schedule(module)
    schedule.tile_and_fuse("root", [4, 6])
    for number in (0, 1):
        schedule.cache_read("root", number)
    schedule.bind("root.i_0", "block.y")
    schedule.bind("root.j_0", "block.x")
    schedule.bind("root.j_1", "thread.x")
    check_product(run_program(module, a, b), a, b)
    assert next(iter(gpu.kernels.values())).waits


def test_blocks_without_threads(gpu, run_program):
    module, a, b = matmul(8, 12, 5)
    schedule = mlcflow.Schedule(module)
    schedule.tile_and_fuse("root", [4, 12])
    schedule.bind("root.i_0", "block.x")
    check_product(run_program(module, a, b), a, b)


@pytest.mark.parametrize("axes", [("block.x", "thread.x"), ("block.z", "thread.y"),
                                  ("block.y", "block.x"), ("thread.z", "thread.x")])  # fmt: skip
def test_axes(run_program, axes):
    module, a, b = matmul(6, 10, 7)
    schedule = mlcflow.Schedule(module)
    schedule.tile_and_fuse("root", [1, 1])
    for loop, axis in zip(("root.i_0", "root.j_0"), axes, strict=True):
        schedule.bind(loop, axis)
    check_product(run_program(module, a, b), a, b)


def test_a_loop_over_all_threads_of_the_grid(gpu, run_program):
    module, a, b = matmul(17, 31, 3)
    schedule = mlcflow.Schedule(module)
    loops = schedule.tile_and_fuse("root", [1, 1])
    schedule.bind(schedule.fuse(*loops), "global.x")
    check_product(run_program(module, a, b), a, b)
    assert "threads in (%c256" in str(lower_program(module, until="outline")["outline"])


WAITS = """
func.func @main(%a: memref<64xf32> {mlcflow.input = "a"},
                %b: memref<64xf32> {mlcflow.output = "b"}) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c32 = arith.constant 32 : index
  %c64 = arith.constant 64 : index
  gpu.launch blocks(%bx, %by, %bz) in (%gx = %c1, %gy = %c1, %gz = %c1)
             threads(%tx, %ty, %tz) in (%sx = %c64, %sy = %c1, %sz = %c1) {
    %first = arith.cmpi ult, %tx, %c32 : index
    scf.if %first {
      gpu.barrier
    }
    %x = memref.load %a[%tx] : memref<64xf32>
    memref.store %x, %b[%tx] : memref<64xf32>
    gpu.terminator
  }
  return
}
"""


def test_the_fake_sees_threads_that_wait_for_nobody(gpu):
    from mlcflow.compiler import build_pipeline

    module = parse(WAITS)
    build_pipeline("cuda", "cuda:sm_90").run(module, start="outline", until="outline")
    gpu.take(module)
    (kernel,) = gpu.kernels.values()
    a, b = np.ones(64, np.float32), np.zeros(64, np.float32)
    with pytest.raises(Divergence, match="32 of 64"):
        kernel([a.ctypes.data, b.ctypes.data], (1, 1, 1), (64, 1, 1))
