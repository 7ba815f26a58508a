# RUN: %python %s | filecheck %s
"""A padded, strided convolution and a pooling: named operations, whatever order the loops have."""

import mlcflow
from mlcflow import language as T


# CHECK: func.func @main
# CHECK: tensor.insert_slice %arg0
# CHECK-SAME: [0, 0, 1, 1] [1, 3, 8, 8] [1, 1, 1, 1]
# CHECK: linalg.conv_2d_nchw_fchw
# CHECK-SAME: strides = dense<2>
# CHECK: linalg.pooling_nchw_max
@mlcflow.tensor_function
def convolution(X: T.Tensor((1, 3, 8, 8), "float32"), W: T.Tensor((4, 3, 3, 3), "float32")):
    padded = T.empty((1, 3, 10, 10), "float32")
    Y = T.empty((1, 4, 4, 4), "float32")
    P = T.empty((1, 4, 2, 2), "float32")
    for n, c, h, w in T.grid(1, 3, 10, 10):
        padded[n, c, h, w] = 0.0
    for n, c, h, w in T.grid(1, 3, 8, 8):
        padded[n, c, h + 1, w + 1] = X[n, c, h, w]
    for r, s, c, n, o, h, w in T.grid(T.reduce(3), T.reduce(3), T.reduce(3), 1, 4, 4, 4):
        with T.init():
            Y[n, o, h, w] = 0.0
        Y[n, o, h, w] += padded[n, c, 2 * h + r, 2 * w + s] * W[o, c, r, s]
    for n, o, h, w, r, s in T.grid(1, 4, 2, 2, T.reduce(2), T.reduce(2)):
        with T.init():
            P[n, o, h, w] = -T.inf
        P[n, o, h, w] = max(P[n, o, h, w], Y[n, o, 2 * h + r, 2 * w + s])
    return P


print(convolution.module)
