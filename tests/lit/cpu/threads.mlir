// RUN: mlcflow opt %s --pipeline=cpu --until=threads --split-input-file | filecheck %s

// A large kernel: threads take tiles from a counter until there are none left.
// CHECK-LABEL: func.func private @
// CHECK: %[[COUNTER:.*]] = memref.alloca() : memref<i64>
// CHECK: omp.parallel
// CHECK-NEXT: scf.while
// CHECK: memref.atomic_rmw addi {{.*}}, %[[COUNTER]]
// CHECK: scf.for
// CHECK: vector.store
// CHECK: omp.terminator
// CHECK: llvm.func @__kmpc_fork_call
func.func @main(%x: tensor<1024x1024xf32>) -> tensor<1024x1024xf32> {
  %e = tensor.empty() : tensor<1024x1024xf32>
  %y = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]} ins(%x : tensor<1024x1024xf32>) outs(%e : tensor<1024x1024xf32>) {
  ^bb0(%v: f32, %o: f32):
    %w = arith.addf %v, %v : f32
    linalg.yield %w : f32
  } -> tensor<1024x1024xf32>
  return %y : tensor<1024x1024xf32>
}

// -----

// A small one: a second thread would come too late.
// CHECK-LABEL: func.func private @
// CHECK-NOT: omp.parallel
// CHECK-NOT: __kmpc
// CHECK: vector.store
func.func @main(%x: tensor<16x1024xf32>) -> tensor<16x1024xf32> {
  %e = tensor.empty() : tensor<16x1024xf32>
  %y = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]} ins(%x : tensor<16x1024xf32>) outs(%e : tensor<16x1024xf32>) {
  ^bb0(%v: f32, %o: f32):
    %w = arith.addf %v, %v : f32
    linalg.yield %w : f32
  } -> tensor<16x1024xf32>
  return %y : tensor<16x1024xf32>
}
