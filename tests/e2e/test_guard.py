"""No access beyond an array: calls between pages that may not be touched, on odd shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import mlcflow
from mlcflow import Pipeline, Stage
from mlcflow.check.guard import call_guarded
from mlcflow.check.isolate import is_supported
from mlcflow.errors import ExecutionError
from mlcflow.mlir import arith, ir, memref, walk
from mlcflow.pipelines import reference
from mlcflow.target import Target

pytestmark = pytest.mark.skipif(not is_supported(), reason="needs Linux")
EDGES = ("end", "start")
TWO = replace(Target.host(), cores=2)


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


class Attention(nn.Module):
    """Two heads of an odd width, over an odd length."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(14, 42)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.unflatten(-1, (2, 7)).transpose(1, 2) for t in self.project(x).chunk(3, -1))
        return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def windows(x: torch.Tensor) -> tuple:
    return nn.functional.max_pool2d(x, 3, 2, 1), nn.functional.avg_pool2d(x, 2)


def gathers(x: torch.Tensor, i: torch.Tensor) -> tuple:
    return x[i], x.t().flip(0), torch.cat([x, x[:1]]), x.roll(1, 1)


MODELS: dict[str, tuple[Callable, tuple]] = {
    "product": (lambda x, y: x @ y, (random(7, 13), random(13, 19))),
    "large product": (lambda x, y: (x @ y).relu(), (random(67, 129), random(129, 131))),
    "product in bfloat16": (
        lambda x, y: x @ y,
        (random(5, 33, dtype=torch.bfloat16), random(33, 17, dtype=torch.bfloat16)),
    ),
    "layers": (
        nn.Sequential(nn.Linear(13, 37), nn.GELU(), nn.LayerNorm(37), nn.Linear(37, 5)),
        (random(3, 13),),
    ),
    "rows": (lambda x: (x.softmax(-1), x.sum(0), x.amax(), x.cumsum(1)), (random(9, 31),)),
    "elements": (lambda x: (x.exp(), x > 0, x.double(), x.to(torch.int8)), (random(3, 5, 7),)),
    "convolution": (
        nn.Sequential(nn.Conv2d(3, 11, 3, padding=1), nn.ReLU(), nn.Conv2d(11, 5, 3, stride=2)),
        (random(1, 3, 13, 11),),
    ),
    "grouped": (nn.Conv2d(6, 6, 3, groups=6, padding=2, dilation=2), (random(2, 6, 9, 7),)),
    "windows": (windows, (random(1, 5, 9, 11),)),
    "attention": (Attention(), (random(2, 11, 14),)),
    "gathers": (gathers, (random(6, 10), torch.tensor([5, 0, 3]))),
    "one": (lambda x: (x * 2, x.sum()), (random(1),)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_odd_shapes(name: str) -> None:
    model, inputs = MODELS[name]
    if isinstance(model, nn.Module):
        model.eval()
    exe = mlcflow.compile(model, *inputs, target=TWO, cache=False)
    results = exe(*inputs)
    expected = results if isinstance(results, tuple) else (results,)
    for edge in EDGES:
        for ours, theirs in zip(call_guarded(exe, *inputs, edge=edge), expected, strict=True):
            assert ours.tobytes() == raw(theirs)


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


# That it catches what it should: code that is wrong on purpose.

DOUBLE = """
func.func @main(%x: tensor<5xf32> {mlcflow.input = "x"}) -> tensor<5xf32> {
  %e = tensor.empty() : tensor<5xf32>
  %r = linalg.add ins(%x, %x : tensor<5xf32>, tensor<5xf32>) outs(%e : tensor<5xf32>)
      -> tensor<5xf32>
  return %r : tensor<5xf32>
}"""


def shift_loops(first: int, last: int) -> Callable[[ir.Module], None]:
    """A wrong bound: the loop from 0 to 5 goes from ``first`` to ``last``."""

    def step(module: ir.Module) -> None:
        for op in walk(module.operation):
            if isinstance(op, arith.ConstantOp) and str(op.type) == "index":
                value = {0: first, 5: last}.get(ir.IntegerAttr(op.value).value)
                if value is not None:
                    op.attributes["value"] = ir.IntegerAttr.get(op.type, value)

    return step


def wrong(stage: str, step: Callable[[ir.Module], None]) -> Pipeline:
    pipeline = reference.pipeline(Target.host())
    stages = [
        Stage(s.name, *s.steps, step) if s.name == stage else s for s in pipeline.stages
    ]  # fmt: skip
    return replace(pipeline, stages=tuple(stages), arguments=None)


@pytest.mark.parametrize(
    ("bounds", "edge", "message"),
    [
        ((0, 6), "end", "reaches 0 bytes after the end of (input 'x'|output '0')"),
        ((-1, 5), "start", "reaches 4 bytes before the start of (input 'x'|output '0')"),
        ((0, 6), "start", "writes beside output '0'"),
        ((-1, 5), "end", "writes beside output '0'"),
    ],
)
def test_a_wrong_bound_is_caught(bounds: tuple[int, int], edge: Any, message: str) -> None:
    pipeline = wrong("loops", shift_loops(*bounds))
    exe = mlcflow.compile(DOUBLE, pipeline=pipeline, cache=False)
    x = np.arange(5, dtype=np.float32)
    with pytest.raises(ExecutionError, match=message):
        call_guarded(exe, x, edge=edge)
    good = mlcflow.compile(DOUBLE, pipeline="reference", cache=False)
    assert (call_guarded(good, x, edge=edge)[0] == 2 * x).all()


def test_who_writes_an_input_is_caught() -> None:
    """Its destination is the wrong one."""

    def step(module: ir.Module) -> None:
        for op in walk(module.operation):
            if isinstance(op, memref.StoreOp):
                main = op.operation.parent
                while main.name != "func.func":
                    main = main.parent
                op.operation.operands[1] = main.regions[0].blocks[0].arguments[0]

    exe = mlcflow.compile(DOUBLE, pipeline=wrong("loops", step), cache=False)
    with pytest.raises(ExecutionError, match="0 bytes after the start of input 'x'.*only read"):
        call_guarded(exe, np.zeros(5, np.float32), edge="end")


def test_arguments_that_do_not_fit() -> None:
    exe = mlcflow.compile(DOUBLE, pipeline="reference", cache=False)
    with pytest.raises(ExecutionError, match="another shape or type"):
        call_guarded(exe, np.zeros(6, np.float32), edge="end")
