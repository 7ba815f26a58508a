// RUN: mlcflow opt %s --pipeline=cuda --target=cuda:sm_90a --until=launch | filecheck %s

// Tiles are copied by the chip, which a single thread asks for; the warps wait for their bytes, and
// for the product that they asked for, but not for each other.
// CHECK-LABEL: func.func private @matmul
// CHECK-SAME: mlcflow.rule = "warpgroups"
// CHECK-COUNT-2: nvgpu.tma.create.descriptor
// CHECK: gpu.launch {{.*}} workgroup(%{{.*}} : memref<4x64x64xbf16, {{.*}}>, %{{.*}} : memref<4x64x64xbf16, {{.*}}>, %{{.*}} : memref<8xi64
// CHECK: gpu.barrier
// CHECK: scf.for {{.*}} iter_args
// CHECK-NOT: gpu.barrier
// CHECK: nvvm.mbarrier.try_wait.parity
// CHECK: wgmma.fence.sync.aligned
// CHECK-COUNT-4: nvvm.wgmma.mma_async
// CHECK: nvvm.mbarrier.try_wait.parity
// CHECK-COUNT-2: nvvm.cp.async.bulk.tensor
// CHECK: nvvm.wgmma.wait.group.sync.aligned 0
// CHECK: nvvm.mbarrier.arrive
func.func @main(%x: tensor<128x512xbf16>, %w: tensor<512x128xbf16>) -> tensor<128x128xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<128x128xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<128x128xf32>) -> tensor<128x128xf32>
  %m = linalg.matmul ins(%x, %w : tensor<128x512xbf16>, tensor<512x128xbf16>) outs(%f : tensor<128x128xf32>) -> tensor<128x128xf32>
  return %m : tensor<128x128xf32>
}
