"""The reference lowering runs the module of every stage, and every stage computes the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mlcflow
from mlcflow.compiler import build_pipeline, import_model, load
from mlcflow.frontends import Imported
from mlcflow.mlir import clone


def _linear() -> tuple[torch.nn.Module, tuple]:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)]
    return torch.nn.Sequential(*layers, torch.nn.Softmax(-1)).eval(), (torch.randn(16, 32),)


def _convolution() -> tuple[torch.nn.Module, tuple]:
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.MaxPool2d(2)).eval(), (torch.randn(2, 3, 8, 8),)


def _attention() -> tuple[torch.nn.Module, tuple]:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return layer.eval(), (torch.randn(2, 8, 32),)


@pytest.mark.parametrize("make", [_linear, _convolution, _attention])
def test_every_stage_computes_the_same(make):
    model, inputs = make()
    imported = import_model(model, inputs)
    pipeline = build_pipeline("cpu")
    stages = pipeline.run(clone(imported.module))
    assert list(stages) == [stage.name for stage in pipeline.stages]
    with torch.no_grad():
        expected = model(*inputs).numpy()
    for module in stages.values():
        stage = Imported(clone(module), imported.parameters)
        result = load(stage, build_pipeline("reference"))(*(x.numpy() for x in inputs))
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_a_stage_that_was_changed_by_hand_goes_on_from_there():
    model, inputs = _linear()
    exe = mlcflow.compile(model, *inputs)
    imported = Imported(clone(exe.stages["kernels"]), exe.parameters)
    again = load(imported, build_pipeline("cpu"), start="schedule")
    np.testing.assert_array_equal(again(inputs[0].numpy()), exe(inputs[0].numpy()))
