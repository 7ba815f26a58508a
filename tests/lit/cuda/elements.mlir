// RUN: mlcflow opt %s --pipeline=cuda --target=cuda:sm_90 --until=schedule | filecheck %s --check-prefix=BOUND
// RUN: mlcflow opt %s --pipeline=cuda --target=cuda:sm_90 --until=launch | filecheck %s

// An element a thread: one loop over all of them, bound to blocks and threads.
// BOUND-LABEL: func.func private @add_kernel
// BOUND-SAME: mlcflow.rule = "elements"
// BOUND: scf.for %{{.*}} = %c0 to %c990 step %c1
// BOUND: mlcflow.bind = "global.x"

// 990 elements take 4 blocks of 256, of which the last threads have nothing to do.
// CHECK-LABEL: func.func private @add_kernel
// CHECK: gpu.launch blocks({{.*}}) in (%{{.*}} = %c4, %{{.*}} = %c1, %{{.*}} = %c1) threads({{.*}}) in (%{{.*}} = %c256
// CHECK: %[[INSIDE:.*]] = arith.cmpi slt, %{{.*}}, %c990
// CHECK: scf.if %[[INSIDE]]
// CHECK: memref.store
func.func @main(%a: tensor<10x99xf32>, %b: tensor<10x99xf32>) -> tensor<10x99xf32> {
  %e = tensor.empty() : tensor<10x99xf32>
  %r = linalg.add ins(%a, %b : tensor<10x99xf32>, tensor<10x99xf32>) outs(%e : tensor<10x99xf32>) -> tensor<10x99xf32>
  return %r : tensor<10x99xf32>
}
