// RUN: mlcflow opt %s --pipeline=cpu --target=cpu:skylake-avx512 --until=schedule | filecheck %s
// RUN: mlcflow opt %s --pipeline=cpu --option fast_math=false --until=schedule | filecheck %s --check-prefix=EXACT

// A row is summed into 64 accumulators, and these into one.
// CHECK-LABEL: func.func private @reduce_add
// CHECK-SAME: mlcflow.rule = "reduction"
// CHECK: scf.for
// CHECK: scf.for {{.*}} -> (vector<64xf32>)
// CHECK: arith.addf {{.*}} : vector<64xf32>
// CHECK: vector.multi_reduction <add>
// EXACT: mlcflow.rule = "loops"
func.func @main(%x: tensor<8x256xf32>) -> tensor<8xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<8xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<8xf32>) -> tensor<8xf32>
  %s = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i)>], iterator_types = ["parallel", "reduction"]} ins(%x : tensor<8x256xf32>) outs(%f : tensor<8xf32>) {
  ^bb0(%a: f32, %o: f32):
    %r = arith.addf %a, %o : f32
    linalg.yield %r : f32
  } -> tensor<8xf32>
  return %s : tensor<8xf32>
}
