"""Verification at compile time finds wrong pipelines and leaves the model alone."""

from __future__ import annotations

import pytest
import torch

import mlcflow
from mlcflow import Stage, Target, VerificationError, mlir
from mlcflow.pipeline import Pipeline, Step
from mlcflow.pipelines import build

X = torch.randn(3, 4)


def replace_operation(old: str, new: str) -> Step:
    """A step with a bug: it puts operation ``new`` where ``old`` was."""

    def planted_bug(module: mlir.ir.Module) -> None:
        for op in mlir.walk(module.operation):
            if op.operation.name == old:
                with mlir.ir.InsertionPoint(op), op.location:
                    made = mlir.ir.Operation.create(
                        new, results=[op.results[0].type], operands=list(op.operands)
                    )
                op.results[0].replace_all_uses_with(made.results[0])
                op.operation.erase()

    return planted_bug


def with_bug(pipeline: str, *steps: Step) -> Pipeline:
    stages = build(pipeline, Target.host()).stages
    return Pipeline("wrong", (Stage("bug", *steps), *stages))


class Difference(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * 2, x - x.abs() * 3


def test_a_planted_bug_is_found(pipeline: str) -> None:
    model = Difference()
    wrong = with_bug(pipeline, replace_operation("arith.subf", "arith.addf"))
    with pytest.raises(VerificationError) as raised:
        mlcflow.compile(model, X, pipeline=wrong)
    assert "result 1: 12 of 12 elements are wrong" in str(raised.value)
    assert "result 0" not in str(raised.value)
    assert mlcflow.compile(model, X, pipeline=wrong, verify=False)(X)[0].shape == (3, 4)


def test_a_wrong_buffer_is_found() -> None:
    class Counter(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(3, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.total.add_(x)
            return x * 2

    model = Counter()
    wrong = with_bug("reference", replace_operation("arith.addf", "arith.subf"))
    with pytest.raises(VerificationError, match="result 1: 12 of 12"):
        mlcflow.compile(model, X, pipeline=wrong)
    assert not model.total.any(), "the model has been changed"


def test_a_wrongly_changed_input_is_found() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        x.add_(1)
        return torch.zeros(2)

    wrong = with_bug("reference", replace_operation("arith.addf", "arith.subf"))
    x = X.clone()
    with pytest.raises(VerificationError, match="elements are wrong"):
        mlcflow.compile(model, x, pipeline=wrong)
    assert torch.equal(x, X)


def test_examples_are_not_changed(pipeline: str) -> None:
    x = X.clone()
    mlcflow.compile(lambda a: a.mul_(2) + 1, x, pipeline=pipeline)
    assert torch.equal(x, X)


def test_an_exported_program_brings_its_inputs(pipeline: str) -> None:
    program = torch.export.export(Difference(), (X,))
    for inputs in ((), (X,)):
        executable = mlcflow.compile(program, *inputs, pipeline=pipeline)
        torch.testing.assert_close(executable(X), program.module()(X))
    wrong = with_bug(pipeline, replace_operation("arith.subf", "arith.addf"))
    with pytest.raises(VerificationError):
        mlcflow.compile(program, pipeline=wrong)
