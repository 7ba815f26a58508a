"""The primitive that maps a block to a function of a library."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from schedule_programs import (
    Program,
    batch_matmul,
    count,
    elementwise,
    linear_relu,
    matmul,
    names,
    reduction,
    refused,
    rows,
)

from mlcflow import mlir
from mlcflow.errors import ExecutionError
from mlcflow.runtime import libraries
from mlcflow.runtime.library import Library
from mlcflow.schedule.apply import apply_schedule
from mlcflow.schedule.program import load_program
from mlcflow.schedule.schedule import Schedule
from mlcflow.schedule.trace import replay
from mlcflow.target import Target

Shapes = list[tuple[tuple[int, ...], ...]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shapes]:
    """Library functions written in Python; gives the shapes that they were called with."""
    seen: Shapes = []
    monkeypatch.setattr(libraries, "LIBRARIES", dict(libraries.LIBRARIES))

    def note(*arrays: np.ndarray) -> None:
        seen.append(tuple(array.shape for array in arrays))

    def product(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
        note(a, b, c)
        c += a @ b

    def add(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> None:
        note(x, y, z)
        np.add(x, y, out=z)

    def largest(x: np.ndarray, y: np.ndarray) -> None:
        note(x, y)
        np.maximum(y, x.max(1), out=y)

    libraries.library("product", "C[i, j] += A[i, k] * B[k, j]", product)
    libraries.library("add", "Z[i, j] = X[i, j] + Y[i, j]", add)
    libraries.library("largest", "Y[i] = max(Y[i], X[i, j])", largest)
    libraries.library("products", "C[b, i, j] += A[b, i, k] * B[b, k, j]", product)
    return seen


def check(program: Program, schedule: Schedule, module: mlir.ir.Module) -> None:
    """The values by the reference lowering, which does without the library, and with it."""
    assert count(schedule, "func.call") == 1
    program.check(module)
    program.check(module, vectors=True)


def test_a_whole_block(calls: Shapes) -> None:
    program = linear_relu(8, 12, 6)
    module, schedule = program.schedule()
    schedule.tensorize("root", "library:product")
    assert schedule.blocks() == ["fill0", "final"] and count(schedule, "linalg.matmul") == 0
    program.check(module)
    assert calls == []  # the reference lowering computes it by itself
    check(program, schedule, module)
    assert calls == [((8, 6), (6, 12), (8, 12))]


def test_a_tile_inside_loops(calls: Shapes) -> None:
    program = linear_relu(8, 12, 6)
    module, schedule = program.schedule()
    schedule.tile_and_fuse("final", [4, 6])
    schedule.split("root.k", [None, 3])
    schedule.tensorize("root", "library:product")
    assert names(schedule, "final") == ["I_0:2", "J_0:2", "i_1:4", "j_1:6"]
    check(program, schedule, module)
    assert calls == [((4, 3), (3, 6), (4, 6))] * 8


def test_tiles_in_threads(calls: Shapes) -> None:
    """Whoever calls from another thread gets its part; what the function raises comes out."""
    program = linear_relu(64, 96, 48)
    module, schedule = program.schedule()
    [rows, _] = schedule.tile_and_fuse("final", [16, 96])[:2]
    schedule.tensorize("root", "library:product")
    schedule.parallel(rows)
    executable = load_program(module, replace(Target.host(), cores=2))
    assert "omp.parallel" in str(executable.stages["threads"])
    inputs = program.inputs()
    wanted = program.expected(*inputs)
    for _ in range(20):
        np.testing.assert_allclose(executable(*inputs), wanted, rtol=1e-4, atol=1e-4)
    assert calls == [((16, 48), (48, 96), (16, 96))] * 80

    failing = True

    def fail(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
        if failing:
            raise ZeroDivisionError(threading.get_ident())
        c += a @ b

    libraries.library("product", "C[i, j] += A[i, k] * B[k, j]", fail, override=True)
    executable = load_program(module, replace(Target.host(), cores=2))
    for _ in range(20):
        failing = True
        with pytest.raises(ExecutionError, match="ZeroDivisionError"):
            executable(*inputs)
        failing = False  # four tiles have raised: nothing of that is left
        np.testing.assert_allclose(executable(*inputs), wanted, rtol=1e-4, atol=1e-4)


def test_nothing_is_copied(calls: Shapes) -> None:
    module, schedule = matmul(8, 12, 6).schedule()
    schedule.tile("root", [4, 6, 3])
    schedule.tensorize("root", "library:product")
    executable = load_program(module)
    assert [port.role for port in executable.inputs + executable.outputs] == ["input"] * 2 + [
        "output"
    ]
    for stage in ("bufferize", "loops"):
        text = str(executable.stages[stage])
        assert "memref.alloc" not in text and "memref.copy" not in text, text
    assert "mlcflow.arena" not in text


def test_other_kinds_of_blocks(calls: Shapes) -> None:
    for program, block, name, shapes in (
        (rows(4, 8), "root", "add", ((4, 8), (4, 8), (4, 8))),
        (reduction(4, 8, "max"), "root", "largest", ((4, 8), (4,))),
        (batch_matmul(2, 3, 8, 4), "root", "products", ((2, 3, 4), (2, 4, 8), (2, 3, 8))),
    ):
        module, schedule = program.schedule()
        schedule.tensorize(block, f"library:{name}")
        check(program, schedule, module)
        assert calls[-1] == shapes


def test_inputs_in_another_order(calls: Shapes) -> None:
    """``C += B' A'``: the loops and the inputs are found, whatever they are called."""
    text = matmul(8, 12, 6).text.replace(
        "linalg.matmul ins(%a, %b : tensor<8x6xf32>, tensor<6x12xf32>)",
        "linalg.contract indexing_maps = [affine_map<(k, j, i) -> (k, j)>, "
        "affine_map<(k, j, i) -> (i, k)>, affine_map<(k, j, i) -> (i, j)>] "
        "ins(%b, %a : tensor<6x12xf32>, tensor<8x6xf32>)",
    )
    program = Program(text, ((8, 6), (6, 12)), lambda a, b: a @ b)
    module, schedule = program.schedule()
    schedule.tensorize("root", "library:product")
    check(program, schedule, module)
    assert calls == [((8, 6), (6, 12), (8, 12))]


def test_what_reads_the_result_sees_the_new_one(calls: Shapes) -> None:
    """The value before the call is read after it: this one needs its own memory."""
    text = """
func.func @main(%a: tensor<4x4xf32>, %c: tensor<4x4xf32>) -> tensor<4x4xf32> {
  %r = linalg.matmul ins(%a, %a : tensor<4x4xf32>, tensor<4x4xf32>)
                     outs(%c : tensor<4x4xf32>) -> tensor<4x4xf32>
  %e = tensor.empty() : tensor<4x4xf32>
  %s = linalg.sub ins(%r, %c : tensor<4x4xf32>, tensor<4x4xf32>)
                  outs(%e : tensor<4x4xf32>) -> tensor<4x4xf32>
  return %s : tensor<4x4xf32>
}"""
    program = Program(text, ((4, 4), (4, 4)), lambda a, c: a @ a)
    module, schedule = program.schedule()
    schedule.tensorize("root", "library:product")
    check(program, schedule, module)


def test_a_c_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """The C type is the documented one: here, a callback of that type stands for C code."""
    monkeypatch.setattr(libraries, "LIBRARIES", dict(libraries.LIBRARIES))

    class Array(ctypes.Structure):
        _fields_ = (
            ("allocated", ctypes.c_void_p),
            ("aligned", ctypes.POINTER(ctypes.c_float)),
            ("offset", ctypes.c_int64),
            ("sizes", ctypes.c_int64 * 2),
            ("strides", ctypes.c_int64 * 2),
        )

    seen = []

    @ctypes.CFUNCTYPE(None, *[ctypes.POINTER(Array)] * 2)
    def negate(x: ctypes._Pointer, y: ctypes._Pointer) -> None:
        source, place = x.contents, y.contents
        seen.append((list(source.sizes), list(source.strides), list(place.strides)))
        for i in range(source.sizes[0]):
            for j in range(source.sizes[1]):
                value = source.aligned[
                    source.offset + i * source.strides[0] + j * source.strides[1]
                ]
                place.aligned[place.offset + i * place.strides[0] + j * place.strides[1]] = -value

    libraries.library("negate", "Y[i, j] = -X[i, j]", negate)
    kind = "tensor<4x8xf32>"
    text = f"""
func.func @main(%x: {kind}) -> {kind} {{
  %e = tensor.empty() : {kind}
  %r = linalg.negf ins(%x : {kind}) outs(%e : {kind}) -> {kind}
  return %r : {kind}
}}"""
    program = Program(text, ((4, 8),), lambda x: -x)
    module, schedule = program.schedule()
    schedule.tile("root", [2, 4])
    schedule.tensorize("root", "library:negate")
    check(program, schedule, module)
    assert seen == [([2, 4], [8, 1], [8, 1])] * 4


def test_the_trace_replays(calls: Shapes) -> None:
    program = linear_relu(8, 12, 6)
    module, schedule = program.schedule()
    schedule.tile_and_fuse("final", [4, 6])
    schedule.tensorize("root", "library:product")
    again, other = program.schedule()
    replay(schedule.trace.to_json(), other)
    assert str(other) == str(schedule) and str(again) == str(module)
    third = mlir.parse(program.text)
    apply_schedule(third, schedule.trace.to_mlir())
    assert str(third).count("call @library_product") == 1
    program.check(third, vectors=True)
    assert "sch.tensorize(block='root', intrinsic='library:product')" in str(schedule.trace)


def test_explain_shows_the_call(calls: Shapes) -> None:
    module, schedule = linear_relu(8, 12, 6).schedule()
    schedule.tensorize("root", "library:product")
    explanation = schedule.explain(measure=True)
    last = explanation.steps[-1]
    assert last.changed["func.call"] == (0, 1) and last.changed["linalg.matmul"] == (1, 0)
    assert "call @library_product" in last.program.nest
    assert last.program.calls["_mlir_ciface_library_product"] == 1
    # A kernel that calls a library can be scheduled further, and explained from there.
    again = Schedule(module)
    again.vectorize("final")
    assert "call @library_product" in again.explain(measure=True).steps[0].program.nest


def test_refuses(calls: Shapes) -> None:
    _, schedule = linear_relu(8, 12, 6).schedule()
    wrong = refused(schedule, "tensorize", "final", "library:product")
    assert "'final' cannot be library:product: it computes C[i, j] += A[i, k] * B[k, j]" in wrong
    assert "the block is linalg.generic of f32" in wrong
    wrong = refused(schedule, "tensorize", "root", "library:dgemm")
    assert "of float64; the block is linalg.matmul of f32; use library:sgemm" in wrong
    wrong = refused(schedule, "tensorize", "root", "library:sgem")
    assert "unknown library function 'sgem'; did you mean 'sgemm'" in wrong
    wrong = refused(schedule, "tensorize", "root", "libary:sgemm")
    assert "unknown intrinsic 'libary:sgemm'; did you mean 'library:sgemm'" in wrong
    schedule.tensorize("root", "library:sgemm")
    assert "unknown block 'root'" in refused(schedule, "tensorize", "root", "library:sgemm")
    _, schedule = elementwise(4, 8).schedule()
    wrong = refused(schedule, "tensorize", "root", "library:add")
    assert "it computes Z[i, j] = X[i, j] + Y[i, j]" in wrong
    _, schedule = reduction(4, 8, "sum").schedule()
    assert "Y[i] = max(Y[i], X[i, j])" in refused(schedule, "tensorize", "root", "library:largest")


COLUMN = """
func.func @main(%a: tensor<8x6x2xf32>, %b: tensor<6x12xf32>) -> tensor<8x12xf32> {
  %zero = arith.constant 0.0 : f32
  %s = tensor.extract_slice %a[0, 0, 1] [8, 6, 1] [1, 1, 1]
      : tensor<8x6x2xf32> to tensor<8x6xf32>
  %e = tensor.empty() : tensor<8x12xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<8x12xf32>) -> tensor<8x12xf32>
  %r = linalg.matmul ins(%s, %b : tensor<8x6xf32>, tensor<6x12xf32>)
                     outs(%f : tensor<8x12xf32>) -> tensor<8x12xf32>
  return %r : tensor<8x12xf32>
}"""


def test_rows_with_gaps(calls: Shapes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused where the function asks for rows without gaps, until they are copied."""
    program = Program(COLUMN, ((8, 6, 2), (6, 12)), lambda a, b: a[:, :, 1] @ b)
    module, schedule = program.schedule()
    wrong = refused(schedule, "tensorize", "root", "library:sgemm")
    assert "A would be a column of a larger array; cache_read or cache_write it" in wrong
    schedule.tensorize("root", "library:product")  # which takes any strides
    check(program, schedule, module)
    given = libraries.LIBRARIES["product"]
    tight = Library(
        given.name, given.computes, given.dtype, given.symbols, given.load, unit_stride=True
    )
    monkeypatch.setitem(libraries.LIBRARIES, "product", tight)
    module, schedule = program.schedule()
    schedule.cache_read("root", 0)
    schedule.tensorize("root", "library:product")
    check(program, schedule, module)
