"""Certificates: within the bounds when all is right, and the kernel named when it is not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import mlcflow
from mlcflow import Stage, Target, mlir
from mlcflow.graph.outline import kernels
from mlcflow.pipelines import build


def small() -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 8)]
    return torch.nn.Sequential(*layers, torch.nn.Softmax(-1)).eval(), torch.randn(4, 20)


@pytest.fixture(scope="module")
def compiled():
    model, x = small()
    return mlcflow.compile(model, x), x


def test_a_right_model_is_within_its_bounds(compiled) -> None:
    exe, x = compiled
    certificate = exe.certificate(x)
    assert certificate.holds
    assert [row.kind for row in certificate.outputs] == ["probabilistic"]
    cut = {function.name.value for function in kernels(exe.stages["kernels"])}
    assert {row.name for row in certificate.kernels} <= cut and len(certificate.kernels) >= 3
    for row in (*certificate.outputs, *certificate.kernels):
        assert 0 <= row.error <= row.bound < 1e-3 and row.elements and not row.note
    assert "within its bounds" in str(certificate)
    assert json.loads(certificate.to_json())["holds"] is True


def test_the_wrong_kernel_is_named() -> None:
    model, x = small()
    right = build("cpu", Target.host())

    def planted_bug(module: mlir.ir.Module) -> None:
        """The powers of the softmax are of e, not of 2."""
        for op in mlir.walk(module.operation):
            if op.operation.name == "math.exp2":
                with mlir.ir.InsertionPoint(op), op.location:
                    made = mlir.math.exp(op.operands[0])
                op.results[0].replace_all_uses_with(made)
                op.operation.erase()

    stages = [
        each if each.name != "vectors" else Stage("vectors", planted_bug, *each.steps)
        for each in right.stages
    ]
    exe = mlcflow.compile(model, x, pipeline=replace(right, stages=tuple(stages)), verify=False)
    certificate = exe.certificate(x)
    assert not certificate.holds and "NOT within" in str(certificate)
    wrong = [row.name for row in certificate.kernels if not row.holds]
    assert len(wrong) == 1 and "exp" in wrong[0]


def test_what_has_no_bound_says_why() -> None:
    x = torch.randn(5, 3)
    certificate = mlcflow.compile(lambda a: torch.complex(a, a * 2).sum(1), x).certificate(x)
    assert "complex" in certificate.outputs[0].note
    assert "complex" in str(certificate)


def test_nothing_is_changed() -> None:
    class Counter(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.total.add_(x)
            return x.mul_(2) + self.total

    model, x = Counter(), torch.ones(3)
    exe = mlcflow.compile(model, x)
    assert exe.certificate(x).holds
    assert not model.total.any() and torch.equal(x, torch.ones(3))


def test_mlir_without_a_model_behind_it() -> None:
    text = """
    func.func @main(%x: tensor<8xf32>) -> tensor<8xf32> {
      %y = math.rsqrt %x : tensor<8xf32>
      return %y : tensor<8xf32>
    }
    """
    exe = mlcflow.compile(text, pipeline="reference")
    certificate = exe.certificate(torch.rand(8).numpy() + 1)
    assert certificate.holds and not certificate.kernels
