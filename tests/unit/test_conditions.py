"""Comparisons that belong to what they decide about."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mlcflow
from mlcflow import mlir
from mlcflow.graph.conditions import join_conditions

CLAMP = """
#map = affine_map<(d0) -> (d0)>
func.func @main(%x: tensor<8x{kind}>) -> tensor<8x{kind}> {{
  %bound = arith.constant {bound} : f64
  %new = arith.constant 6.0 : {kind}
  %mask = tensor.empty() : tensor<8xi1>
  %space = tensor.empty() : tensor<8x{kind}>
  %0 = linalg.generic {{indexing_maps = [#map, #map], iterator_types = ["parallel"]}}
      ins(%x : tensor<8x{kind}>) outs(%mask : tensor<8xi1>) {{
  ^bb0(%in: {kind}, %out: i1):
    %wide = arith.extf %in : {kind} to f64
    %is = arith.cmpf ogt, %wide, %bound : f64
    linalg.yield %is : i1
  }} -> tensor<8xi1>
  %1 = linalg.generic {{indexing_maps = [#map, #map, #map], iterator_types = ["parallel"]}}
      ins(%0, %x : tensor<8xi1>, tensor<8x{kind}>) outs(%space : tensor<8x{kind}>) {{
  ^bb0(%is: i1, %in: {kind}, %out: {kind}):
    %y = arith.select %is, %new, %in : {kind}
    linalg.yield %y : {kind}
  }} -> tensor<8x{kind}>
  return %1 : tensor<8x{kind}>
}}
"""


@pytest.mark.parametrize("kind", ["f32", "f16"])
@pytest.mark.parametrize(("bound", "is_narrow"), [(6.0, True), (0.1, False), (1e300, False)])
def test_one_operation(kind: str, bound: float, is_narrow: bool) -> None:
    """In the type of what is compared, if the bound is a number of it."""
    module = mlir.parse(CLAMP.format(kind=kind, bound=f"{bound:e}"))
    join_conditions(module)
    text = str(module)
    assert text.count("linalg.generic") == 1
    (comparison,) = [line for line in text.splitlines() if "arith.cmpf ogt" in line]
    assert comparison.endswith(f": {kind}" if is_narrow else ": f64")


@pytest.mark.parametrize("bounds", [(0.0, 6.0), (0.1, 0.2), (-np.inf, 1e30)])
def test_the_same_numbers(bounds: tuple[float, float]) -> None:
    x = torch.tensor([0.0, -0.0, 0.1, 0.2, 6.0, 7.0, np.inf, -np.inf, np.nan, 1e-42, 0.1000001])
    x = torch.cat([x, -x, torch.nextafter(x, x + 1)])
    exe = mlcflow.compile(lambda x: x.clamp(*bounds), x)
    np.testing.assert_array_equal(exe(x).numpy(), x.clamp(*bounds).numpy())
