// RUN: mlcflow opt %s --pipeline=cpu --until=bufferize | filecheck %s

// Four products in a row have three values between them, of which two are alive at a time: the
// first and the third lie at the same place.
// CHECK: mlcflow.memory = {{.*}}arena = 2048 : i64{{.*}}lower_bound = 2048 : i64
// CHECK-LABEL: func.func @main
// CHECK-SAME: memref<2048xi8> {mlcflow.arena = "arena"}
// CHECK-NOT: memref.alloc
// CHECK: %[[A:.*]] = memref.view
// CHECK: %[[B:.*]] = memref.view
// CHECK-NOT: memref.copy
// CHECK: call @{{.*}}({{.*}}, %[[A]])
// CHECK: call @{{.*}}(%[[A]], {{.*}}, %[[B]])
// CHECK: call @{{.*}}(%[[B]], {{.*}}, %[[A]])
// CHECK: call @{{.*}}(%[[A]], {{.*}}, %arg1)
func.func @main(%a: tensor<16x16xf32>) -> tensor<16x16xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<16x16xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<16x16xf32>) -> tensor<16x16xf32>
  %1 = linalg.matmul ins(%a, %a : tensor<16x16xf32>, tensor<16x16xf32>) outs(%f : tensor<16x16xf32>) -> tensor<16x16xf32>
  %2 = linalg.matmul ins(%1, %a : tensor<16x16xf32>, tensor<16x16xf32>) outs(%f : tensor<16x16xf32>) -> tensor<16x16xf32>
  %3 = linalg.matmul ins(%2, %a : tensor<16x16xf32>, tensor<16x16xf32>) outs(%f : tensor<16x16xf32>) -> tensor<16x16xf32>
  %4 = linalg.matmul ins(%3, %a : tensor<16x16xf32>, tensor<16x16xf32>) outs(%f : tensor<16x16xf32>) -> tensor<16x16xf32>
  return %4 : tensor<16x16xf32>
}
