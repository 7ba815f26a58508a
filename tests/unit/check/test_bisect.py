"""Bugs of many kinds, planted in copies of stages: the stage and the step are found."""

from __future__ import annotations

import planted as bugs
import pytest
import torch
from planted import planted

from mlcflow import Pipeline, mlir
from mlcflow.check import isolate
from mlcflow.check.bisect import bisect
from mlcflow.check.isolate import Limits
from mlcflow.compiler import build_pipeline, import_model
from mlcflow.pipeline import Step

pytestmark = pytest.mark.skipif(not isolate.is_supported(), reason="needs worker processes")


class Net(torch.nn.Module):
    """A linear layer, an activation and a softmax: kernels of three kinds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(12, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.layer(x)) * 0.25
        return torch.softmax(hidden - x.mean(), -1)


X = torch.randn(6, 12, generator=torch.Generator().manual_seed(0))
QUICK = Limits(seconds=20.0)


def search(pipeline: Pipeline, **options):
    return bisect(import_model(Net(), (X,)), pipeline, inputs=[[X.numpy()]], **options)


BUGS: list[tuple[str, Step, int | None, str]] = [
    ("simplify", bugs.another_operation, 4, "wrong"),
    ("kernels", bugs.dropped_epilogue, None, "wrong"),
    ("kernels", bugs.dropped_scale, None, "wrong"),
    ("schedule", bugs.wrong_constant, 0, "wrong"),
    ("bufferize", bugs.overlapping_buffers, None, "wrong"),
    ("vectors", bugs.swapped_operands, 0, "wrong"),
    ("loops", bugs.short_loop, None, "wrong"),
    ("schedule", bugs.refuses, 0, "failed"),
    ("kernels", bugs.crashes, None, "crashed"),
]


@pytest.mark.parametrize(
    ("stage", "bug", "at", "kind"), BUGS, ids=lambda value: getattr(value, "__name__", None)
)
def test_the_stage_and_the_step_are_named(stage: str, bug: Step, at: int | None, kind: str) -> None:
    found = search(planted(stage, bug, at), limits=QUICK, seconds=300.0)
    assert found is not None
    assert (found.stage, found.steps, found.failure.kind) == (stage, (bug.__name__,), kind)
    assert len(found.program.splitlines()) <= 28  # two lines above it say what it shows
    assert "dense_resource" not in found.program
    mlir.parse(found.program)


def test_a_step_that_hangs() -> None:
    limits = Limits(seconds=10.0)
    found = search(planted("schedule", bugs.hangs, 0), limits=limits, seconds=2.0)
    assert found is not None
    assert (found.stage, found.steps, found.failure.kind) == ("schedule", ("hangs",), "hung")
    assert "math.exp" in found.program


def test_the_kernel_is_named() -> None:
    found = search(planted("vectors", bugs.swapped_operands, 0), limits=QUICK, seconds=0.0)
    assert found is not None
    names = [f.name.value for f in bugs.kernels(_kernels_of_net())]
    assert found.kernel in names
    first = Net.forward.__code__.co_firstlineno
    assert found.lines.endswith(f"test_bisect.py:{first + 2}"), "the softmax"


def _kernels_of_net() -> mlir.ir.Module:
    module = import_model(Net(), (X,)).module
    build_pipeline("cpu").run(module, until="kernels")
    return module


def test_a_right_pipeline_has_no_culprit() -> None:
    assert search(build_pipeline("cpu"), limits=QUICK) is None
