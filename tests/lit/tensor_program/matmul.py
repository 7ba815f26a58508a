# RUN: %python %s | filecheck %s
"""A linear layer with ReLU: a named product, then one generic."""

import mlcflow
from mlcflow import language as T


# CHECK-DAG: #[[ALL:.*]] = affine_map<(d0, d1) -> (d0, d1)>
# CHECK-DAG: #[[COLUMN:.*]] = affine_map<(d0, d1) -> (d1)>
# CHECK: func.func @main
# CHECK-SAME: mlcflow.input = "X"
# CHECK-SAME: mlcflow.output = "Z"
# CHECK: linalg.fill
# CHECK: %[[PRODUCT:.*]] = linalg.matmul
# CHECK: linalg.generic
# CHECK-SAME: indexing_maps = [#[[ALL]], #[[COLUMN]], #[[ALL]]]
# CHECK-SAME: iterator_types = ["parallel", "parallel"]
# CHECK-SAME: ins(%[[PRODUCT]], %
# CHECK: arith.addf
# CHECK: arith.maximumf
@mlcflow.tensor_function
def linear_relu(
    X: T.Tensor((4, 16), "float32"),
    W: T.Tensor((16, 8), "float32"),
    b: T.Tensor((8,), "float32"),
):
    Y = T.empty((4, 8), "float32")
    Z = T.empty((4, 8), "float32")
    for i, j, k in T.grid(4, 8, T.reduce(16)):
        with T.init():
            Y[i, j] = 0.0
        Y[i, j] += X[i, k] * W[k, j]
    for i, j in T.grid(4, 8):
        Z[i, j] = max(Y[i, j] + b[j], 0)
    return Z


print(linear_relu.module)
