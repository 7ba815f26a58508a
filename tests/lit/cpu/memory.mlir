// RUN: mlcflow opt %s --pipeline=cpu --until=bufferize | filecheck %s

// Three products in a row have two buffers between them: the caller's memory serves as one, the
// arena holds the other.
// CHECK-LABEL: func.func @main
// CHECK-SAME: memref<1024xi8> {mlcflow.arena = "arena"}
// CHECK-NOT: memref.alloc
// CHECK-COUNT-1: memref.view
// CHECK-NOT: memref.view
// CHECK-NOT: memref.copy
// CHECK: return
func.func @main(%a: tensor<16x16xf32>) -> tensor<16x16xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<16x16xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<16x16xf32>) -> tensor<16x16xf32>
  %1 = linalg.matmul ins(%a, %a : tensor<16x16xf32>, tensor<16x16xf32>) outs(%f : tensor<16x16xf32>) -> tensor<16x16xf32>
  %2 = linalg.matmul ins(%1, %a : tensor<16x16xf32>, tensor<16x16xf32>) outs(%f : tensor<16x16xf32>) -> tensor<16x16xf32>
  %3 = linalg.matmul ins(%2, %a : tensor<16x16xf32>, tensor<16x16xf32>) outs(%f : tensor<16x16xf32>) -> tensor<16x16xf32>
  return %3 : tensor<16x16xf32>
}
