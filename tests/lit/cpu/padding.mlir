// RUN: mlcflow opt %s --pipeline=cpu --until=kernels | filecheck %s

// What is read elsewhere as well is copied into the padded tensor by a kernel of its own; what
// is padded by an unknown width stays as fill and insertion.
// CHECK-LABEL: func.func @main
// CHECK: %[[SUM:.*]] = call @add_kernel
// CHECK: %[[PADDED:.*]] = call @pad_kernel(%[[SUM]]
// CHECK: tensor.insert_slice %[[SUM]] into {{.*}}[0, 0]
// CHECK: return %[[PADDED]]
// CHECK-LABEL: func.func private @pad_kernel
// CHECK-SAME: (%arg0: tensor<4x8xf32>, %arg1: tensor<5x10xf32>) -> tensor<5x10xf32>
// CHECK: tensor.extract_slice %arg1[4, 0] [1, 10]
// CHECK: %[[INSIDE:.*]] = tensor.extract_slice {{.*}}[0, 1] [4, 8] [1, 1]
// CHECK: linalg.copy {{.*}} outs(%[[INSIDE]]
// CHECK: tensor.insert_slice
#row = affine_map<(a, b) -> (a, b)>
func.func @main(%x: tensor<4x8xf32>, %width: index) -> (tensor<5x10xf32>, tensor<4x?xf32>) {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<4x8xf32>
  %s = linalg.generic {indexing_maps = [#row, #row], iterator_types = ["parallel", "parallel"]} ins(%x : tensor<4x8xf32>) outs(%e : tensor<4x8xf32>) {
  ^bb0(%in: f32, %out: f32):
    %m = arith.addf %in, %in : f32
    linalg.yield %m : f32
  } -> tensor<4x8xf32>
  %p = tensor.pad %s low[0, 1] high[1, 1] {
  ^bb0(%i0: index, %i1: index):
    tensor.yield %zero : f32
  } : tensor<4x8xf32> to tensor<5x10xf32>
  %q = tensor.pad %s low[0, 0] high[0, %width] {
  ^bb0(%i0: index, %i1: index):
    tensor.yield %zero : f32
  } : tensor<4x8xf32> to tensor<4x?xf32>
  return %p, %q : tensor<5x10xf32>, tensor<4x?xf32>
}
