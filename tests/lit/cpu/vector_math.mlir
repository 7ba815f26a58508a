// RUN: mlcflow opt %s --pipeline=cpu --target=cpu:skylake-avx512 --until=vectors | filecheck %s

// Written out in multiply-adds; double precision goes to the C library.
// CHECK-LABEL: func.func private @
// CHECK-NOT: math.exp
// CHECK: math.fma {{.*}} : vector<{{[0-9]+}}xf32>
// CHECK: arith.bitcast {{.*}} : vector<{{[0-9]+}}xi32> to vector<{{[0-9]+}}xf32>
// CHECK-NOT: math.exp
// CHECK-LABEL: func.func private @
// CHECK: math.exp {{.*}} : vector<{{[0-9]+}}xf64>

#map = affine_map<(i, j) -> (i, j)>
#row = affine_map<(i) -> (i)>
func.func @main(%x: tensor<8x64xf32> {mlcflow.input = "x"},
                %y: tensor<128xf64> {mlcflow.input = "y"}) -> (tensor<8x64xf32>, tensor<128xf64>) {
  %e = tensor.empty() : tensor<8x64xf32>
  %a = linalg.generic {indexing_maps = [#map, #map], iterator_types = ["parallel", "parallel"]} ins(%x : tensor<8x64xf32>) outs(%e : tensor<8x64xf32>) {
  ^bb0(%v: f32, %o: f32):
    %r = math.exp %v : f32
    linalg.yield %r : f32
  } -> tensor<8x64xf32>
  %f = tensor.empty() : tensor<128xf64>
  %b = linalg.generic {indexing_maps = [#row, #row], iterator_types = ["parallel"]} ins(%y : tensor<128xf64>) outs(%f : tensor<128xf64>) {
  ^bb0(%v: f64, %o: f64):
    %r = math.exp %v : f64
    linalg.yield %r : f64
  } -> tensor<128xf64>
  return %a, %b : tensor<8x64xf32>, tensor<128xf64>
}
