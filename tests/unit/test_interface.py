"""What @main takes and gives: read from the module, whatever it was written like."""

from __future__ import annotations

import numpy as np
import pytest

import mlcflow
from mlcflow import mlir
from mlcflow.graph.interface import normalize_interface
from mlcflow.runtime.interface import Port


def test_scalars_become_arrays_of_rank_zero(pipeline: str) -> None:
    text = """
    func.func @main(%x: f32, %n: i64, %unused: i1) -> (f32, i64, i64) {
      %y = arith.mulf %x, %x : f32
      %c = arith.constant 7 : i64
      return %y, %n, %c : f32, i64, i64
    }
    """
    executable = mlcflow.compile(text, pipeline=pipeline)
    assert [str(port) for port in executable.inputs] == [
        "input 'arg0' (float32[])", "input 'arg1' (int64[])", "input 'arg2' (bool[])",
    ]  # fmt: skip
    y, n, c = executable(np.float32(3), np.array(5), np.bool_(True))
    assert (y, n, c) == (9, 5, 7) and y.dtype == np.float32 and n.dtype == np.int64


def test_given_names_are_kept() -> None:
    text = """
    func.func @main(%x: tensor<2xf32> {mlcflow.input = "left"}, %y: tensor<2xf32>)
        -> (tensor<2xf32> {mlcflow.output = "sum"}) {
      return %x : tensor<2xf32>
    }
    """
    executable = mlcflow.compile(text, pipeline="reference")
    assert [port.name for port in executable.inputs] == ["left", "arg1"]
    assert [port.name for port in executable.outputs] == ["sum"]


def test_normalizing_twice_changes_nothing() -> None:
    module = mlir.parse("func.func @main(%x: f32) -> f32 { return %x : f32 }")
    with module.context, mlir.ir.Location.unknown():
        normalize_interface(module)
        once = mlir.asm(module)
        normalize_interface(module)
    assert mlir.asm(module) == once and module.operation.verify()


def test_torch_names(pipeline: str) -> None:
    import torch

    model = torch.nn.Linear(4, 2)
    executable = mlcflow.compile(model, torch.ones(3, 4), pipeline=pipeline)
    assert [str(port) for port in executable.inputs] == ["input 'input' (float32[3x4])"]
    assert set(executable.parameters) == {"weight", "bias"}

    def function(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return left - right

    executable = mlcflow.compile(function, torch.ones(2), torch.ones(2), pipeline=pipeline)
    assert [port.name for port in executable.inputs] == ["left", "right"]


def test_ports() -> None:
    port = Port("input", "x", "float16", (3, -1), ("", "n"))
    assert not port.is_static and str(port) == "input 'x' (float16[3x?])"
    assert Port("output", "y", "complex128", (2, 3)).nbytes == 96
    assert Port("output", "y", "float32", ()).nbytes == 4


@pytest.mark.parametrize("count", [1, 7, 40])
def test_many_inputs_and_results(pipeline: str, count: int) -> None:
    names = ", ".join(f"%x{i}: tensor<{i + 1}xf32>" for i in range(count))
    types = ", ".join(f"tensor<{i + 1}xf32>" for i in reversed(range(count)))
    values = ", ".join(f"%x{i}" for i in reversed(range(count)))
    text = f"func.func @main({names}) -> ({types}) {{ return {values} : {types} }}"
    executable = mlcflow.compile(text, pipeline=pipeline)
    arrays = [np.full(i + 1, i, np.float32) for i in range(count)]
    results = executable(*arrays)
    results = results if count > 1 else (results,)
    for result, array in zip(results, reversed(arrays), strict=True):
        np.testing.assert_array_equal(result, array)
