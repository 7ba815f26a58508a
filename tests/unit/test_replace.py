"""Another program in the place of a kernel."""

from __future__ import annotations

import numpy as np
import pytest

import mlcflow
from mlcflow.compiler import build_pipeline, import_model, load
from mlcflow.frontends import Imported
from mlcflow.frontends.tensor_program.function import TensorFunction
from mlcflow.graph.outline import kernels
from mlcflow.graph.replace import replace_kernel
from mlcflow.mlir import ir

PRODUCT = "C[i, j] += A[i, k] * B[k, j]"


def product(rows: int, depth: int, columns: int) -> TensorFunction:
    return mlcflow.einsum_function(
        PRODUCT, A=((rows, depth), "float32"), B=((depth, columns), "float32")
    )


def cut(rows: int = 8) -> Imported:
    imported = import_model(product(rows, 6, 4))
    build_pipeline("cpu").run(imported.module, until="kernels")
    return imported


def name_of(module: ir.Module) -> str:
    (function,) = kernels(module)
    return str(function.name.value)


def twice() -> TensorFunction:
    return mlcflow.from_python(
        """
import mlcflow
from mlcflow import language as T

@mlcflow.tensor_function
def twice(A: T.Tensor((8, 6), "float32"), B: T.Tensor((6, 4), "float32")):
    C = T.empty((8, 4), "float32")
    D = T.empty((8, 4), "float32")
    for i, j, k in T.grid(8, 4, T.reduce(6)):
        with T.init():
            C[i, j] = 0.0
        C[i, j] += A[i, k] * B[k, j]
    for i, j in T.grid(8, 4):
        D[i, j] = C[i, j] * 2.0
    return D
"""
    )


@pytest.mark.parametrize("as_module", [False, True])
def test_the_model_computes_with_the_program(as_module: bool) -> None:
    imported = cut()
    name = name_of(imported.module)
    program = twice()
    replace_kernel(imported.module, name, program.module if as_module else program)
    (function,) = kernels(imported.module)
    assert function.name.value == name and "outs(%arg2" in str(function)
    random = np.random.default_rng(0)
    a, b = random.random((8, 6), np.float32), random.random((6, 4), np.float32)
    exe = load(imported, build_pipeline("cpu"), start="schedule")
    np.testing.assert_allclose(exe(a, b), 2 * (a @ b), rtol=1e-5)


def test_an_unknown_kernel_is_refused_with_those_there_are() -> None:
    imported = cut()
    with pytest.raises(mlcflow.MlcflowError, match=rf"'matmull'.*{name_of(imported.module)}"):
        replace_kernel(imported.module, "matmull", twice())


def test_other_types_are_refused_and_nothing_changes() -> None:
    imported = cut()
    before = str(imported.module)
    with pytest.raises(mlcflow.LoweringError, match=r"tensor<8x6xf32>.*tensor<9x6xf32>"):
        replace_kernel(imported.module, name_of(imported.module), product(9, 6, 4))
    assert str(imported.module) == before


def test_a_program_of_several_functions_is_refused() -> None:
    imported = cut()
    with pytest.raises(mlcflow.LoweringError, match="expected one function"):
        replace_kernel(imported.module, name_of(imported.module), cut().module)
