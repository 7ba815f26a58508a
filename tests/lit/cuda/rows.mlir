// RUN: mlcflow opt %s --pipeline=cuda --target=cuda:sm_90 --until=launch | filecheck %s
// RUN: mlcflow opt %s --pipeline=cuda --target=cuda:sm_90 --until=outline | filecheck %s --check-prefix=SHUFFLE

// A block a row: its threads add up what they read side by side, then what they have.
// CHECK-LABEL: func.func private @reduce_add
// CHECK-SAME: mlcflow.rule = "rows"
// CHECK: gpu.launch {{.*}} in (%{{.*}} = %c16, {{.*}} threads({{.*}}) in (%{{.*}} = %c256
// CHECK: %[[OWN:.*]] = scf.for {{.*}} to %c1024 step %c256 iter_args
// CHECK: gpu.all_reduce add %[[OWN]] uniform
// CHECK: memref.store

// SHUFFLE-NOT: gpu.all_reduce
// SHUFFLE: gpu.shuffle xor
func.func @main(%x: tensor<16x1024xf32>) -> tensor<16xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<16xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<16xf32>) -> tensor<16xf32>
  %r = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i)>], iterator_types = ["parallel", "reduction"]} ins(%x : tensor<16x1024xf32>) outs(%f : tensor<16xf32>) {
  ^bb0(%a: f32, %o: f32):
    %s = arith.addf %a, %o : f32
    linalg.yield %s : f32
  } -> tensor<16xf32>
  return %r : tensor<16xf32>
}
