"""A tiny model through a whole pipeline: does compiling and running work on this machine?"""

from __future__ import annotations

import numpy as np

import mlcflow
from mlcflow.check.compare import compare
from mlcflow.target import Target

_MODEL = """
#identity = affine_map<(i, j) -> (i, j)>
func.func @main(%x: tensor<8x32xf32>, %w: tensor<32x16xf32>) -> tensor<8x16xf32> {
  %zero = arith.constant 0.0 : f32
  %empty = tensor.empty() : tensor<8x16xf32>
  %start = linalg.fill ins(%zero : f32) outs(%empty : tensor<8x16xf32>) -> tensor<8x16xf32>
  %product = linalg.matmul ins(%x, %w : tensor<8x32xf32>, tensor<32x16xf32>)
      outs(%start : tensor<8x16xf32>) -> tensor<8x16xf32>
  %relu = linalg.generic {indexing_maps = [#identity, #identity],
      iterator_types = ["parallel", "parallel"]}
      ins(%product : tensor<8x16xf32>) outs(%empty : tensor<8x16xf32>) {
    ^bb0(%value: f32, %out: f32):
      %positive = arith.maximumf %value, %zero : f32
      linalg.yield %positive : f32
  } -> tensor<8x16xf32>
  return %relu : tensor<8x16xf32>
}
"""


def self_test(pipeline: str, target: Target) -> None:
    """Compile a linear layer with ReLU, run it, compare with numpy.

    Raises an ``MlcflowError`` that says what does not work.
    """
    generator = np.random.default_rng(0)
    x = generator.standard_normal((8, 32)).astype(np.float32)
    w = generator.standard_normal((32, 16)).astype(np.float32)
    executable = mlcflow.compile(_MODEL, target=target, pipeline=pipeline, cache=False)
    compare([executable(x, w)], [np.maximum(x @ w, 0)])
