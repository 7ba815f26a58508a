# RUN: %python %s | filecheck %s
"""One-liners, with an open size."""

import mlcflow

# CHECK: func.func @main(%[[A:.*]]: tensor<?x8xf64> {mlcflow.dims = ["n", "8"]
# CHECK: tensor.dim %[[A]]
# CHECK: linalg.matmul
# CHECK-SAME: indexing_maps
print(
    mlcflow.einsum_function(
        "C[i, j] += A[i, k] * B[j, k]", A=(("n", 8), "float64"), B=((4, 8), "float64")
    ).module
)
# CHECK: func.func @main
# CHECK: arith.constant 0xFF800000 : f32
# CHECK: linalg.generic
# CHECK-SAME: iterator_types = ["parallel", "reduction"]
# CHECK: arith.maximumf
print(mlcflow.einsum_function("Y[i] = max(Y[i], X[i, j])", X=((4, 8), "float32")).module)
