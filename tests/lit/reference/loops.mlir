// RUN: mlcflow opt %s --pipeline=reference --until=loops | filecheck %s

// CHECK: func.func @main(
// CHECK-NOT: linalg.
// CHECK: scf.for
// CHECK: scf.for
// CHECK: scf.for
// CHECK: arith.mulf
// CHECK: arith.addf
// CHECK: memref.store
// CHECK-NOT: vector.
// CHECK-NOT: memref.copy
// CHECK: return
func.func @main(%x: tensor<4x8xf32>, %w: tensor<8x2xf32>, %y: tensor<4x2xf32>) -> (tensor<4x2xf32>, tensor<8x2xf32>) {
  %z = linalg.matmul ins(%x, %w : tensor<4x8xf32>, tensor<8x2xf32>)
                     outs(%y : tensor<4x2xf32>) -> tensor<4x2xf32>
  return %z, %w : tensor<4x2xf32>, tensor<8x2xf32>
}
