// RUN: mlcflow opt %s --pipeline=cuda --target=cuda:sm_90 --until=launch | filecheck %s

// Three tiles of each factor in shared memory: two are copied before the loop, one in it; the
// threads wait once an iteration, and the sums never leave their registers before the epilogue.
// CHECK-LABEL: func.func private @matmul_cast
// CHECK-SAME: mlcflow.rule = "tensor_cores"
// CHECK: gpu.launch {{.*}} threads({{.*}}) in (%{{.*}} = %c32, %{{.*}} = %c4, %{{.*}} = %c2)
// CHECK-SAME: workgroup(%[[A:.*]] : memref<3x128x32xf16, #gpu.address_space<workgroup>>, %[[B:.*]] : memref<3x32x128xf16, #gpu.address_space<workgroup>>)
// CHECK: memref.alloca() : memref<32x2xf32>
// CHECK-COUNT-4: nvgpu.device_async_copy
// CHECK: scf.for {{.*}} iter_args
// CHECK: nvvm.cp.async.wait.group 1
// CHECK-NEXT: gpu.barrier
// CHECK-COUNT-2: nvgpu.device_async_copy
// CHECK-COUNT-32: nvgpu.mma.sync
// CHECK-NOT: gpu.barrier
// CHECK: arith.truncf
func.func @main(%x: tensor<2048x1024xf16>, %w: tensor<1024x2048xf16>) -> tensor<2048x2048xf16> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<2048x2048xf32>
  %h = tensor.empty() : tensor<2048x2048xf16>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<2048x2048xf32>) -> tensor<2048x2048xf32>
  %m = linalg.matmul ins(%x, %w : tensor<2048x1024xf16>, tensor<1024x2048xf16>) outs(%f : tensor<2048x2048xf32>) -> tensor<2048x2048xf32>
  %r = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]} ins(%m : tensor<2048x2048xf32>) outs(%h : tensor<2048x2048xf16>) {
  ^bb0(%p: f32, %o: f16):
    %s = arith.truncf %p : f32 to f16
    linalg.yield %s : f16
  } -> tensor<2048x2048xf16>
  return %r : tensor<2048x2048xf16>
}
