# RUN: %python %s | filecheck %s
"""A module of named operations as Python."""

import mlcflow
from mlcflow import mlir

# CHECK: def main(x: T.Tensor((4, 8), "float32"), arg1: T.Tensor((8, 2), "float32")):
# CHECK: for i, j in T.grid(4, 2):
# CHECK-NEXT: buffer[i, j] = 0.0
# CHECK-NEXT: for i, j, k in T.grid(4, 2, T.reduce(8)):
# CHECK-NEXT: buffer[i, j] += x[i, k] * arg1[k, j]
# CHECK: y[i, j] = T.maximum(buffer[i, j], 0.0)
# CHECK: return y
module = mlir.parse("""
func.func @main(%x: tensor<4x8xf32> {mlcflow.input = "x"}, %w: tensor<8x2xf32>)
    -> (tensor<4x2xf32> {mlcflow.output = "y"}) {
  %zero = arith.constant 0.0 : f32
  %empty = tensor.empty() : tensor<4x2xf32>
  %zeros = linalg.fill ins(%zero : f32) outs(%empty : tensor<4x2xf32>) -> tensor<4x2xf32>
  %product = linalg.matmul ins(%x, %w : tensor<4x8xf32>, tensor<8x2xf32>)
      outs(%zeros : tensor<4x2xf32>) -> tensor<4x2xf32>
  %relu = linalg.max ins(%product, %zeros : tensor<4x2xf32>, tensor<4x2xf32>)
      outs(%empty : tensor<4x2xf32>) -> tensor<4x2xf32>
  return %relu : tensor<4x2xf32>
}""")
print(mlcflow.to_python(module))
