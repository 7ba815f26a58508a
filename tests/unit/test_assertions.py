"""Checks inside a model: a failure is an error, and the process goes on."""

from __future__ import annotations

import pytest
import torch

import mlcflow
from mlcflow import ExecutionError, mlir
from mlcflow.graph.assertions import drop_needless_assertions, report_assertions

CHECKED = """
func.func @main(%i: tensor<index>) -> tensor<f32> {
  %table = arith.constant dense<[1.0, 2.0, 3.0]> : tensor<3xf32>
  %index = tensor.extract %i[] : tensor<index>
  %three = arith.constant 3 : index
  %zero = arith.constant 0 : index
  %low = arith.cmpi sge, %index, %zero : index
  cf.assert %low, "the index is negative"
  %high = arith.cmpi slt, %index, %three : index
  cf.assert %high, "the index is too large"
  %x = tensor.extract %table[%index] : tensor<3xf32>
  %y = tensor.from_elements %x : tensor<f32>
  return %y : tensor<f32>
}
"""


def test_the_first_failed_check_is_reported(pipeline: str) -> None:
    executable = mlcflow.compile(CHECKED, pipeline=pipeline)
    assert executable(torch.tensor(2)) == 3
    for index, message in ((-1, "negative"), (3, "too large"), (2**60, "too large")):
        with pytest.raises(ExecutionError, match=f"own check failed: the index is {message}"):
            executable(torch.tensor(index))
    assert executable(torch.tensor(0)) == 1


@pytest.mark.parametrize("index", [10, -11, 2**40, -(2**62)])
def test_an_index_out_of_range_reads_no_memory(pipeline: str, index: int) -> None:
    table = torch.nn.Embedding(10, 4)
    executable = mlcflow.compile(table, torch.tensor([1, 2]), pipeline=pipeline)
    with pytest.raises(ExecutionError, match="own check failed"):
        executable(torch.tensor([1, index]))
    good = torch.tensor([9, 0])
    torch.testing.assert_close(executable(good), table(good).detach())


def test_in_a_function_that_allocates_its_results(pipeline: str) -> None:
    def model(x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        return torch.nonzero(torch.index_select(x, 0, i))

    x = torch.eye(4)
    executable = mlcflow.compile(model, x, torch.tensor([0, 3]), pipeline=pipeline)
    with pytest.raises(ExecutionError, match="own check failed"):
        executable(x, torch.tensor([0, 4]))
    good = torch.tensor([2, 1])
    torch.testing.assert_close(executable(x, good), model(x, good))


def test_a_division_by_zero_is_no_failure(pipeline: str) -> None:
    x = torch.tensor([0.0, -0.0, 2.0])
    executable = mlcflow.compile(lambda a: 1 / a, x, pipeline=pipeline)
    assert executable(x).tolist() == [float("inf"), float("-inf"), 0.5]


def test_reported_assertions_keep_their_order() -> None:
    module = mlir.parse(CHECKED)
    with module.context, mlir.ir.Location.unknown():
        drop_needless_assertions(module)
        report_assertions(module)
    assert module.operation.verify()
    names = [op.operation.name for op in mlir.walk(module.operation)]
    assert "cf.assert" not in names and names.count("cf.cond_br") == 2
    messages = str(module.operation.attributes["mlcflow.assertions"])
    assert messages == '["the index is negative", "the index is too large"]'
