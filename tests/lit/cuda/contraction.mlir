// RUN: mlcflow opt %s --pipeline=cuda --target=cuda:sm_90 --until=launch | filecheck %s

// A small product has small tiles. Those of the operands are in shared memory, three of each, of
// the result in memory of the thread; the
// threads wait once in each part of the reduction, and nowhere else.
// CHECK-LABEL: func.func private @matmul_add
// CHECK-SAME: mlcflow.rule = "contraction"
// CHECK: gpu.launch {{.*}} in (%{{.*}} = %c4, %{{.*}} = %c4, {{.*}} threads({{.*}}) in (%{{.*}} = %c8, %{{.*}} = %c8
// CHECK-SAME: workgroup(%[[A:.*]] : memref<3x32x16xf32, #gpu.address_space<workgroup>>, %[[B:.*]] : memref<3x16x32xf32, #gpu.address_space<workgroup>>)
// CHECK: %[[ACC:.*]] = memref.alloca() : memref<4x4xf32>
// CHECK-NOT: gpu.barrier
// CHECK: scf.for {{.*}} iter_args
// CHECK: nvvm.cp.async.wait.group 1
// CHECK-NEXT: gpu.barrier
// CHECK-COUNT-2: nvgpu.device_async_copy
// CHECK-NOT: gpu.barrier
// CHECK: memref.store
func.func @main(%x: tensor<128x96xf32>, %w: tensor<96x128xf32>, %b: tensor<128xf32>) -> tensor<128x128xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<128x128xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<128x128xf32>) -> tensor<128x128xf32>
  %m = linalg.matmul ins(%x, %w : tensor<128x96xf32>, tensor<96x128xf32>) outs(%f : tensor<128x128xf32>) -> tensor<128x128xf32>
  %r = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (j)>, affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]} ins(%m, %b : tensor<128x128xf32>, tensor<128xf32>) outs(%e : tensor<128x128xf32>) {
  ^bb0(%p: f32, %c: f32, %o: f32):
    %s = arith.addf %p, %c : f32
    linalg.yield %s : f32
  } -> tensor<128x128xf32>
  return %r : tensor<128x128xf32>
}
