// RUN: mlcflow opt %s --pipeline=cpu --until=loops | filecheck %s

// What no rule covers becomes loops over scalars; no linalg operation is left anywhere.
// CHECK-LABEL: func.func private @and_kernel
// CHECK: scf.for
// CHECK: memref.load {{.*}} memref<64xi1>
// CHECK: arith.andi
// CHECK: memref.store
// CHECK-NOT: linalg.
func.func @main(%a: tensor<64xi1>, %b: tensor<64xi1>) -> tensor<64xi1> {
  %e = tensor.empty() : tensor<64xi1>
  %r = linalg.generic {indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> (i)>, affine_map<(i) -> (i)>], iterator_types = ["parallel"]} ins(%a, %b : tensor<64xi1>, tensor<64xi1>) outs(%e : tensor<64xi1>) {
  ^bb0(%x: i1, %y: i1, %o: i1):
    %z = arith.andi %x, %y : i1
    linalg.yield %z : i1
  } -> tensor<64xi1>
  return %r : tensor<64xi1>
}
