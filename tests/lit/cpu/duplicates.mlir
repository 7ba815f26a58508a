// RUN: mlcflow opt %s --pipeline=cpu --until=kernels | filecheck %s

// Kernels of the same structure are one function, called twice.
// CHECK-LABEL: func.func @main
// CHECK: call @matmul_kernel
// CHECK: call @matmul_kernel
// CHECK: func.func private @matmul_kernel
// CHECK-NOT: func.func
func.func @main(%a: tensor<16x16xf32>, %b: tensor<16x16xf32>) -> tensor<16x16xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<16x16xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<16x16xf32>) -> tensor<16x16xf32>
  %1 = linalg.matmul ins(%a, %b : tensor<16x16xf32>, tensor<16x16xf32>) outs(%f : tensor<16x16xf32>) -> tensor<16x16xf32>
  %2 = linalg.matmul ins(%1, %b : tensor<16x16xf32>, tensor<16x16xf32>) outs(%f : tensor<16x16xf32>) -> tensor<16x16xf32>
  return %2 : tensor<16x16xf32>
}
