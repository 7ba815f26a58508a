"""Functions of libraries: made known, found, called, and what is said when they are not there."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import mlcflow
from mlcflow import mlir
from mlcflow.compiler import build_pipeline, import_model, load
from mlcflow.errors import ExecutionError, LoweringError, MlcflowError
from mlcflow.graph.outline import kernels
from mlcflow.runtime import blas, libraries
from mlcflow.runtime.library import Library
from mlcflow.runtime.machine_code import external_symbols, link

PRODUCT = "C[i, j] += A[i, k] * B[k, j]"


@pytest.fixture(autouse=True)
def own_table(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(libraries, "LIBRARIES", dict(libraries.LIBRARIES))
    yield


def program(name: str, m: int = 4, k: int = 6, n: int = 8, element: str = "f32") -> str:
    """A graph that calls a product by name, as an author may write it."""
    kinds = [f"tensor<{a}x{b}x{element}>" for a, b in ((m, k), (k, n), (m, n))]
    a, b, c = kinds
    whole = f"tensor<?x?x{element}>"
    return f"""
func.func private @library_{name}({whole}, {whole}, {whole}) -> {whole}
    attributes {{mlcflow.library = "{name}"}}
func.func @main(%a: {a}, %b: {b}) -> {c} {{
  %zero = arith.constant 0.0 : {element}
  %e = tensor.empty() : {c}
  %f = linalg.fill ins(%zero : {element}) outs(%e : {c}) -> {c}
  %0 = tensor.cast %a : {a} to {whole}
  %1 = tensor.cast %b : {b} to {whole}
  %2 = tensor.cast %f : {c} to {whole}
  %3 = func.call @library_{name}(%0, %1, %2) : ({whole}, {whole}, {whole}) -> {whole}
  %4 = tensor.cast %3 : {whole} to {c}
  %5 = linalg.exp ins(%4 : {c}) outs(%e : {c}) -> {c}
  return %5 : {c}
}}"""


def operands(dtype: str = "float32", m: int = 4, k: int = 6, n: int = 8) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n))]


def expected(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.exp(a.astype(np.float64) @ b.astype(np.float64))


def multiply(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    c += a @ b


def test_a_graph_that_calls_a_library(pipeline: str) -> None:
    called = []

    def note(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
        called.append(a.flags.writeable or b.flags.writeable or not c.flags.writeable)
        multiply(a, b, c)

    mlcflow.library("multiply", PRODUCT, note)
    executable = mlcflow.compile(program("multiply"), pipeline=pipeline)
    a, b = operands()
    np.testing.assert_allclose(executable(a, b), expected(a, b), rtol=1e-5)
    # The trusted lowering computes what the library says that it does.
    assert called == ([False] if pipeline == "cpu" else [])


def test_several_dtypes() -> None:
    mlcflow.library("multiply64", PRODUCT, multiply, dtype="float64")
    executable = mlcflow.compile(program("multiply64", element="f64"))
    a, b = operands("float64")
    np.testing.assert_allclose(executable(a, b), expected(a, b), rtol=1e-12)


def test_an_error_in_python_comes_out() -> None:
    def fail(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
        raise ZeroDivisionError("on purpose")

    mlcflow.library("fail", PRODUCT, fail)
    executable = mlcflow.compile(program("fail"))
    with pytest.raises(ExecutionError, match="a library raised ZeroDivisionError: on pur"):
        executable(*operands())
    mlcflow.library("fail", PRODUCT, multiply, override=True)
    again = mlcflow.compile(program("fail"))
    np.testing.assert_allclose(again(*operands()), expected(*operands()), rtol=1e-5)


def test_an_input_cannot_be_written() -> None:
    def wrong(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
        a += 1

    mlcflow.library("wrong", PRODUCT, wrong)
    with pytest.raises(ExecutionError, match="ValueError: .*read-only"):
        mlcflow.compile(program("wrong"))(*operands())


def test_rules_schedule_what_a_library_leaves() -> None:
    """The names that the schedule by hand gave do not confuse them."""
    mlcflow.library("multiply", PRODUCT, multiply)
    body = """
func.func @main(%a: tensor<4x6xf32>, %b: tensor<6x8xf32>) -> tensor<4x8xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<4x8xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<4x8xf32>) -> tensor<4x8xf32>
  %p = linalg.matmul ins(%a, %b : tensor<4x6xf32>, tensor<6x8xf32>)
                     outs(%f : tensor<4x8xf32>) -> tensor<4x8xf32>
  %r = linalg.generic {
      indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>],
      iterator_types = ["parallel", "parallel"]}
      ins(%p : tensor<4x8xf32>) outs(%e : tensor<4x8xf32>) {
  ^bb0(%x: f32, %o: f32):
    %0 = math.exp %x : f32
    linalg.yield %0 : f32
  } -> tensor<4x8xf32>
  return %r : tensor<4x8xf32>
}"""
    pipeline = build_pipeline("cpu")
    imported = import_model(body)
    pipeline.run(imported.module, until="kernels")
    [kernel] = kernels(imported.module)
    schedule = mlcflow.Schedule(imported.module, kernel=kernel.name.value)
    schedule.tensorize("root", "library:multiply")
    executable = load(imported, pipeline, start="schedule")
    [kernel] = kernels(executable.stages["schedule"])
    assert str(kernel.attributes["mlcflow.rule"]) == '"elementwise"'
    np.testing.assert_allclose(executable(*operands()), expected(*operands()), rtol=1e-5)


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_the_c_function_of_the_docs(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "libraries.md").read_text()
    source, shared = tmp_path / "multiply.c", tmp_path / "libmultiply.so"
    source.write_text(re.findall(r"```c\n(.*?)```", page, re.DOTALL)[0])
    [command] = re.findall(r"^cc .*$", page, re.MULTILINE)
    subprocess.run(command.split(), cwd=tmp_path, check=True)
    function = ctypes.CDLL(str(shared)).multiply
    mlcflow.library("multiply", PRODUCT, function)
    executable = mlcflow.compile(program("multiply"))
    np.testing.assert_allclose(executable(*operands()), expected(*operands()), rtol=1e-5)


def test_several_threads_call() -> None:
    mlcflow.library("multiply", PRODUCT, multiply)
    executable = mlcflow.compile(program("multiply"))
    random = np.random.default_rng(1)
    pairs = [
        (
            random.standard_normal((4, 6)).astype(np.float32),
            random.standard_normal((6, 8)).astype(np.float32),
        )
        for _ in range(8)
    ]
    results: list = [None] * len(pairs)

    def work(number: int) -> None:
        for _ in range(20):
            results[number] = executable(*pairs[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(pairs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result, (a, b) in zip(results, pairs, strict=True):
        np.testing.assert_allclose(result, expected(a, b), rtol=1e-4)


@pytest.mark.parametrize(
    ("computes", "dtype", "name"),
    [
        ("C[i, j] +=", "float32", "f"),
        ("C += A", "float32", "f"),
        ("C[i] = A[i + 1]", "float32", "f"),
        ("C[i] = A[i, i]", "float32", "f"),
        ("C[i, j] = A[i, j] + A[j, i]", "float32", "f"),
        ("import os", "float32", "f"),
        ("a; b", "float32", "f"),
        (PRODUCT, "float33", "f"),
        (PRODUCT, "float32", "no word"),
    ],
)
def test_what_is_not_understood(computes: str, dtype: str, name: str) -> None:
    with pytest.raises(MlcflowError, match="library function"):
        mlcflow.library(name, computes, multiply, dtype=dtype)
    assert name not in libraries.LIBRARIES


def test_registration_refuses() -> None:
    with pytest.raises(MlcflowError, match="there is a library function 'sgemm'; override=True"):
        mlcflow.library("sgemm", PRODUCT, multiply)
    with pytest.raises(MlcflowError, match="called with \\(A, B, C\\), which it does not take"):
        mlcflow.library("f", PRODUCT, lambda a, b: None)
    with pytest.raises(MlcflowError, match="expected a ctypes function pointer or a Python"):
        mlcflow.library("f", PRODUCT, 3)


def test_a_function_that_nobody_knows() -> None:
    with pytest.raises(LoweringError, match="unknown library function 'nobody'"):
        mlcflow.compile(program("nobody"))


def test_arrays_that_do_not_go_together() -> None:
    mlcflow.library("multiply", PRODUCT, multiply)
    text = program("multiply").replace("tensor<6x8xf32>", "tensor<5x8xf32>")
    with pytest.raises(LoweringError, match="'multiply' .* called with arrays that do not go"):
        mlcflow.compile(text)


@pytest.mark.parametrize(("name", "dtype"), [("sgemm", "float32"), ("dgemm", "float64")])
@pytest.mark.parametrize("transposed", [False, True])
def test_blas(name: str, dtype: str, transposed: bool) -> None:
    if blas.find_blas() is None:
        pytest.skip("no BLAS library here")
    name += "_nt" if transposed else ""
    element = "f32" if dtype == "float32" else "f64"
    for m, k, n in ((4, 6, 8), (1, 1, 1), (1, 5, 3), (7, 1, 2)):
        a, b = operands(dtype, m, k, n)
        text = program(name, m, k, n, element)
        if transposed:
            kinds = f"tensor<{k}x{n}x{element}>", f"tensor<{n}x{k}x{element}>"
            text = text.replace(f"%b: {kinds[0]}", f"%b: {kinds[1]}")
            text = text.replace(f"%b : {kinds[0]}", f"%b : {kinds[1]}")
        given = np.ascontiguousarray(b.T) if transposed else b
        result = mlcflow.compile(text)(a, given)
        np.testing.assert_allclose(result, expected(a, b), rtol=2e-5 if element == "f32" else 1e-12)


def test_without_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "find_blas", lambda: None)
    with pytest.raises(ExecutionError, match="calls cblas_sgemm, and no BLAS .*pip install scipy"):
        mlcflow.compile(program("sgemm"))


def test_blas_with_other_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    found = blas.find_blas()
    if found is None:
        pytest.skip("no BLAS library here")
    other = 32 if found.bits == 64 else 64
    with pytest.raises(ExecutionError, match=f"integers of {other} bits, .* takes {found.bits}"):
        link([f"mlcflow_cblas_sgemm_{other}"], lambda number: None, lambda error: None)


def test_symbols_that_a_module_calls() -> None:
    """What a later check of names against a list has to look at."""
    mlcflow.library("multiply", PRODUCT, multiply)
    executable = mlcflow.compile(program("multiply"))
    symbols = external_symbols(executable.stages["llvm"])
    assert "_mlir_ciface_library_multiply" in symbols
    linked = link(symbols, lambda number: None, lambda error: None)
    assert isinstance(linked["_mlir_ciface_library_multiply"], ctypes._CFuncPtr)
    with pytest.raises(ExecutionError, match="functions that this process does not have: nowhere"):
        link([*symbols, "nowhere"], lambda number: None, lambda error: None)


def test_a_table_entry_keeps_its_description() -> None:
    made = mlcflow.library("largest", "Y[i] = max(Y[i], X[i, j])", lambda x, y: None)
    assert isinstance(made, Library)
    assert made.arrays == {"X": ("i", "j"), "Y": ("i",)}
    assert made.symbols == ("_mlir_ciface_library_largest",)
    assert mlir.context() is not None
