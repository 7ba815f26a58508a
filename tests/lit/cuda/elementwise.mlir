// RUN: mlcflow opt %s --pipeline=cuda --target=cuda:sm_90 --until=schedule | filecheck %s
// RUN: mlcflow opt %s --pipeline=cuda --target=cuda:sm_90 --until=ptx | filecheck %s --check-prefix=PTX

// 16 bytes a thread: four numbers of f32.
// CHECK-LABEL: func.func private @add_tanh
// CHECK-SAME: mlcflow.rule = "elementwise"
// CHECK: vector.transfer_read {{.*}} vector<4xf32>
// CHECK: math.tanh {{.*}} vector<4xf32>
// CHECK: mlcflow.bind = "global.x"

// PTX: ld.global.nc.v4.b32
// PTX-SAME: st.global.v4.b32
func.func @main(%a: tensor<10x100xf32>, %b: tensor<100xf32>) -> tensor<10x100xf32> {
  %e = tensor.empty() : tensor<10x100xf32>
  %r = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (j)>, affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]} ins(%a, %b : tensor<10x100xf32>, tensor<100xf32>) outs(%e : tensor<10x100xf32>) {
  ^bb0(%x: f32, %y: f32, %o: f32):
    %s = arith.addf %x, %y : f32
    %t = math.tanh %s : f32
    linalg.yield %t : f32
  } -> tensor<10x100xf32>
  return %r : tensor<10x100xf32>
}
