"""Lengths that no vector divides: whole vectors all the same, and the same numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import mlcflow
from mlcflow.mlir import ir, walk

Function = Callable[[torch.Tensor], torch.Tensor]

CASES: dict[str, tuple[Function, tuple[int, ...]]] = {
    "exp": (lambda x: torch.exp(x) * 2, (6, 197)),
    "tanh": (lambda x: torch.tanh(x) + x[..., :1], (5, 3, 100)),
    "one more than a vector": (lambda x: x + 1, (17,)),
    "less than a vector": (lambda x: x + 1, (3, 13)),
    "sum": (lambda x: x.sum(-1), (6, 197)),
    "maximum": (lambda x: x.amax(-1) * 2, (6, 197)),
    "squares": (lambda x: (x * x).sum(-1), (3, 129)),
    "mean": (lambda x: x.mean(-1), (4, 64, 49)),
    "one less than four": (lambda x: x.sum(-1), (3, 63)),
}


@pytest.mark.parametrize("name", CASES)
def test_in_vectors(name: str) -> None:
    function, shape = CASES[name]
    torch.manual_seed(0)
    x = torch.randn(shape)
    exe = mlcflow.compile(function, x)
    for op in walk(exe.stages["schedule"].operation):
        if "mlcflow.rule" in op.operation.attributes:
            assert str(op.attributes["mlcflow.rule"]) != '"loops"'
        # No number of a row is read by itself.
        if op.operation.name == "tensor.extract":
            assert len(op.operands) < len(shape)
    exact = function(x.double())
    bound = (shape[-1] / 16 + 8) * torch.finfo(torch.float32).eps
    assert (exe(x) - exact).abs().max() <= bound * max(1.0, float(exact.abs().max()))


def test_overlapping_tiles_write_the_same_twice() -> None:
    """Not where an element is computed from what its place held before."""
    module = """
func.func @main(%x: tensor<100xf32>, %y: tensor<100xf32>) -> tensor<100xf32> {
  %r = linalg.generic {
      indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> (i)>],
      iterator_types = ["parallel"]} ins(%x : tensor<100xf32>) outs(%y : tensor<100xf32>) {
  ^bb0(%a: f32, %o: f32):
    %s = arith.addf %a, %o : f32
    linalg.yield %s : f32
  } -> tensor<100xf32>
  return %r : tensor<100xf32>
}"""
    x, y = torch.randn(100), torch.randn(100)
    exe = mlcflow.compile(module)
    assert isinstance(exe.stages["schedule"], ir.Module)
    torch.testing.assert_close(torch.as_tensor(exe(x, y)), x + y)
