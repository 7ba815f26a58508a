"""Loops in threads: the same results for any number of them, alone and side by side."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

import mlcflow
from mlcflow import LoweringError, Target, mlir
from mlcflow.compiler import build_pipeline, load
from mlcflow.errors import ExecutionError
from mlcflow.frontends import Imported
from mlcflow.graph.memory import SCRATCH
from mlcflow.graph.outline import kernels
from mlcflow.mlir import clone, ir, memref, scf, walk
from mlcflow.runtime.executable import Executable
from mlcflow.schedule.labels import PARALLEL
from mlcflow.schedule.schedule import Schedule

CORES = 5
"""More than the machine may have: threads then wait for processors, which must not matter."""
TARGET = replace(Target.host(), cores=CORES)

MATMUL = """
func.func @main(%a: tensor<60x96xf32>, %b: tensor<96x112xf32>) -> tensor<60x112xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<60x112xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<60x112xf32>) -> tensor<60x112xf32>
  %c = linalg.matmul ins(%a, %b : tensor<60x96xf32>, tensor<96x112xf32>)
      outs(%f : tensor<60x112xf32>) -> tensor<60x112xf32>
  return %c : tensor<60x112xf32>
}
"""
RANDOM = np.random.default_rng(0)
A = RANDOM.standard_normal((60, 96), dtype=np.float32)
B = RANDOM.standard_normal((96, 112), dtype=np.float32)
EXACT = A.astype(np.float64) @ B.astype(np.float64)
BOUND = 96 * np.finfo(np.float32).eps * (np.abs(A) @ np.abs(B))
"""Of sums of 96 products: https://epubs.siam.org/doi/book/10.1137/1.9780898718027, (3.5)."""


def finish(module: ir.Module, start: str) -> Executable:
    """Compile a module that is at ``start`` of pipeline ``cpu``."""
    return load(Imported(module), build_pipeline("cpu", TARGET), start=start)


def matmul(*marks: str, panel: bool = False) -> tuple[ir.Module, ir.Module]:
    """A matrix product in tiles with ``marks`` among the loops: the module, and as it runs."""
    module = mlir.parse(MATMUL)
    build_pipeline("cpu", TARGET).run(module, until="kernels")
    schedule = Schedule(module, "matmul_kernel")
    loops = schedule.tile_and_fuse("root", [6, 16], order=[1, 0])
    if panel:
        schedule.cache_read("root", 1)
        schedule.hoist()
    for loop, name in zip(loops, "ij", strict=True):
        if name in marks:
            schedule.parallel(loop)
    return module, schedule.module


@pytest.mark.parametrize("marks", ["", "i", "j", "ij"])
@pytest.mark.parametrize("panel", [False, True])
def test_the_number_of_threads_changes_no_bit(marks: str, panel: bool) -> None:
    module, _ = matmul(*marks, panel=panel)
    exe = finish(module, "bufferize")
    regions = [op for op in walk(exe.stages["threads"].operation) if op.name == "omp.parallel"]
    # Loops inside of a parallel one are none of their own; side by side they would be.
    assert len(regions) == bool(marks)
    exe.threads = 1
    alone = exe(A, B)
    assert (np.abs(alone - EXACT) <= BOUND).all()
    for threads in range(2, CORES + 1):
        exe.threads = threads
        for _ in range(30):
            np.testing.assert_array_equal(exe(A, B), alone)


def test_an_iteration_works_in_memory_of_its_thread() -> None:
    module, _ = matmul("j", panel=True)
    pipeline = build_pipeline("cpu", TARGET)
    stages = pipeline.run(module, start="bufferize")
    (kernel,) = kernels(stages["bufferize"])
    *_, last = ir.ArrayAttr(kernel.attributes["arg_attrs"])
    panel = 96 * 16 * 4
    assert ir.IntegerAttr(ir.DictAttr(last)[SCRATCH]).value == panel
    assert str(kernel.type.inputs[-1]) == f"memref<{CORES * panel}xi8>"
    (region,) = (op for op in walk(stages["threads"].operation) if op.name == "omp.parallel")
    (view,) = (op for op in walk(region) if isinstance(op, memref.ViewOp))
    assert "arith.constant" not in view.byte_shift.owner.name, "all threads use the first piece"
    assert "memref.alloc(" not in str(stages["threads"])


def test_the_reference_pipeline_runs_every_stage() -> None:
    module, _ = matmul("j", panel=True)
    exe = finish(module, "bufferize")
    wanted = exe(A, B)
    for stage in exe.stages.values():
        again = load(Imported(clone(stage)), build_pipeline("reference", TARGET))
        np.testing.assert_allclose(again(A, B), wanted, rtol=1e-4, atol=1e-4)


def mark(module: ir.Module, *names: str) -> ir.Module:
    """Mark the loops that carry the attribute ``test.mark``."""
    with module.context:
        for op in walk(module.operation):
            if isinstance(op, scf.ForOp) and "test.mark" in op.attributes:
                op.attributes[PARALLEL] = ir.StringAttr.get("threads")
    return module


LOOPS = """
func.func @main(%x: tensor<?x?xf32>) -> tensor<?x?xf32> {
  %zero = arith.constant 0.0 : f32
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c2 = arith.constant 2 : index
  %c3 = arith.constant 3 : index
  %rows = tensor.dim %x, %c0 : tensor<?x?xf32>
  %columns = tensor.dim %x, %c1 : tensor<?x?xf32>
  %e = tensor.empty(%rows, %columns) : tensor<?x?xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<?x?xf32>) -> tensor<?x?xf32>
  %y = scf.for %i = %c1 to %rows step %c3 iter_args(%t = %f) -> tensor<?x?xf32> {
    %z = scf.for %j = %c2 to %columns step %c2 iter_args(%u = %t) -> tensor<?x?xf32> {
      %v = tensor.extract %x[%i, %j] : tensor<?x?xf32>
      %w = arith.addf %v, %v : f32
      %s = tensor.insert %w into %u[%i, %j] : tensor<?x?xf32>
      scf.yield %s : tensor<?x?xf32>
    } {test.mark}
    scf.yield %z : tensor<?x?xf32>
  } {test.mark}
  return %y : tensor<?x?xf32>
}
"""


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (2, 3), (100, 7), (3, 1000)])
def test_sizes_known_at_run_time(shape: tuple[int, int]) -> None:
    exe = finish(mark(mlir.parse(LOOPS)), "simplify")
    x = RANDOM.standard_normal(shape, dtype=np.float32)
    wanted = np.zeros(shape, np.float32)
    wanted[1::3, 2::2] = 2 * x[1::3, 2::2]
    for _ in range(20):
        np.testing.assert_array_equal(exe(x), wanted)


def test_a_loop_that_hands_values_on_is_an_error() -> None:
    module = mlir.parse("""
      func.func @main(%x: tensor<64xf32>) -> tensor<f32> {
        %zero = arith.constant 0.0 : f32
        %c0 = arith.constant 0 : index
        %c1 = arith.constant 1 : index
        %c64 = arith.constant 64 : index
        %sum = scf.for %i = %c0 to %c64 step %c1 iter_args(%t = %zero) -> f32 {
          %v = tensor.extract %x[%i] : tensor<64xf32>
          %w = arith.addf %t, %v : f32
          scf.yield %w : f32
        } {test.mark}
        %r = tensor.from_elements %sum : tensor<f32>
        return %r : tensor<f32>
      }""")
    with pytest.raises(LoweringError, match="stage 'threads'.*hands f32 on from one iteration"):
        finish(mark(module), "simplify")


def test_a_loop_with_assertions_runs_on_one_thread() -> None:
    module = mlir.parse("""
      func.func @main(%x: tensor<64xi64>) -> tensor<64xi64> {
        %zero = arith.constant 0 : i64
        %c0 = arith.constant 0 : index
        %c1 = arith.constant 1 : index
        %c64 = arith.constant 64 : index
        %e = tensor.empty() : tensor<64xi64>
        %y = scf.for %i = %c0 to %c64 step %c1 iter_args(%t = %e) -> tensor<64xi64> {
          %v = tensor.extract %x[%i] : tensor<64xi64>
          %ok = arith.cmpi sge, %v, %zero : i64
          cf.assert %ok, "negative"
          %w = tensor.insert %v into %t[%i] : tensor<64xi64>
          scf.yield %w : tensor<64xi64>
        } {test.mark}
        return %y : tensor<64xi64>
      }""")
    exe = finish(mark(module), "simplify")
    assert "omp.parallel" not in str(exe.stages["threads"])
    np.testing.assert_array_equal(exe(np.arange(64)), np.arange(64))
    with pytest.raises(ExecutionError, match="negative"):
        exe(np.arange(64) - 60)


def model() -> torch.nn.Module:
    """Two kernels that are large enough for threads."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(256, 384), torch.nn.ReLU(), torch.nn.Linear(384, 200)]
    return torch.nn.Sequential(*layers).eval()


X = torch.randn(512, 256)


def test_models() -> None:
    exe = mlcflow.compile(model(), X, target=TARGET)
    assert str(exe.stages["threads"]).count("omp.parallel") >= 2
    assert exe.threads == CORES
    results = []
    for threads in (1, 2, 3, 5):
        exe.threads = threads
        results.append(exe(X))
    assert all(torch.equal(results[0], result) for result in results)


def test_small_kernels_run_on_one_thread() -> None:
    exe = mlcflow.compile(torch.nn.Linear(64, 64), X[:4, :64], target=TARGET)
    assert "omp.parallel" not in str(exe.stages["threads"])


def test_a_target_of_one_core_has_no_regions() -> None:
    exe = mlcflow.compile(model(), X, target=replace(TARGET, cores=1))
    assert "omp.parallel" not in str(exe.stages["threads"]) and exe.threads == 1


def test_threads_of_python_that_call_at_the_same_time() -> None:
    exes = [mlcflow.compile(model(), X, target=TARGET) for _ in range(2)]
    wanted = exes[0](X)

    def work(number: int) -> bool:
        return all(torch.equal(exes[number % 2](X), wanted) for _ in range(50))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


@pytest.mark.parametrize("threads", [0, CORES + 1, -1])
def test_a_number_that_is_not_possible(threads: int) -> None:
    exe = finish(mlir.parse(MATMUL), "simplify")
    with pytest.raises(ExecutionError, match=f"expected 1 to {CORES}, .* got {threads}"):
        exe.threads = threads
    assert exe.threads == CORES


def test_threads_are_an_option_of_compile() -> None:
    assert mlcflow.compile(MATMUL, target=TARGET, threads=2).threads == 2
    assert mlcflow.compile(MATMUL, pipeline="reference").threads == 1
    with pytest.raises(ExecutionError, match="'reference' compiled for, got 2"):
        mlcflow.compile(MATMUL, pipeline="reference", threads=2)


SCRIPT = '''
import os, sys, time
from dataclasses import replace
import numpy as np
from mlcflow import Target, mlir
from mlcflow.compiler import build_pipeline, load
from mlcflow.frontends import Imported
from mlcflow.graph.outline import kernels
from mlcflow.graph.memory import SCRATCH
text = """
func.func @main(%x: tensor<512x512xf32>) -> tensor<512x512xf32> {{
  %e = tensor.empty() : tensor<512x512xf32>
  %y = linalg.generic {{
      indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>],
      iterator_types = ["parallel", "parallel"]}}
      ins(%x : tensor<512x512xf32>) outs(%e : tensor<512x512xf32>) {{
  ^bb0(%v: f32, %o: f32):
    %w = arith.addf %v, %v : f32
    linalg.yield %w : f32
  }} -> tensor<512x512xf32>
  return %y : tensor<512x512xf32>
}}"""
exe = load(Imported(mlir.parse(text)), build_pipeline("cpu", replace(Target.host(), cores=3)))
assert "omp.parallel" in str(exe.stages["threads"])
x = np.ones((512, 512), np.float32)
for _ in range(100):
    assert (exe(x) == 2).all()
{rest}
'''


def run_script(rest: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(rest=rest)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert not done.stderr
    return done.stdout


@pytest.mark.parametrize("rest", ["", "time.sleep(0.1)", "del exe", "os._exit(0)"])
def test_a_process_ends_while_workers_wait(rest: str) -> None:
    run_script(rest)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_has_threads_of_its_own() -> None:
    assert run_script("""
count = lambda: len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 3
before = count()
child = os.fork()
if child == 0:
    assert count() in (1, 3)
    for _ in range(100):
        assert (exe(x) == 2).all()
    assert count() >= 3, count()
    os._exit(0)
_, status = os.waitpid(child, 0)
assert status == 0, status
assert (exe(x) == 2).all()
print("done")
""") == "done\n"  # fmt: skip


def test_threads_treat_small_numbers_as_the_caller_does() -> None:
    target = replace(TARGET, cores=2)
    exe = mlcflow.compile(lambda x: x * 0.5, torch.ones(4096, 256), target=target)
    assert "omp.parallel" in str(exe.stages["threads"])
    x = torch.full((4096, 256), torch.finfo(torch.float32).tiny)
    for flush in (True, False):
        if not torch.set_flush_denormal(flush):
            pytest.skip("this processor cannot flush denormal numbers")
        try:
            results = [exe(x) for _ in range(50)]
        finally:
            torch.set_flush_denormal(False)
        assert all((result == 0).all() == flush for result in results)
