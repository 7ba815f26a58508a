// RUN: mlcflow opt %s --pipeline=cpu --target=cpu:skylake-avx512 --until=schedule | filecheck %s

// One kernel; a row is reduced, changed and reduced again before the next; 5 elements of 69 are
// left behind the whole vectors. The sum is inverted once a row.
// CHECK: call @reduce_maximum_sub_exp
// CHECK-NOT: call
// CHECK-LABEL: func.func private @reduce_maximum_sub_exp
// CHECK-SAME: mlcflow.rule = "rows"
// CHECK: scf.for
// CHECK: vector.multi_reduction <maximumf>, {{.*}} : vector<5xf32> to f32
// CHECK: math.exp2 {{.*}} : vector<64xf32>
// CHECK: math.exp2 {{.*}} : vector<5xf32>
// CHECK: vector.multi_reduction <add>
// CHECK: arith.divf {{.*}} : f32
// CHECK-NOT: scf.for

#whole = affine_map<(i, j) -> (i, j)>
#row = affine_map<(i, j) -> (i)>
func.func @main(%x: tensor<16x69xf32> {mlcflow.input = "x"}) -> tensor<16x69xf32> {
  %low = arith.constant 0xFF800000 : f32
  %zero = arith.constant 0.0 : f32
  %rows = tensor.empty() : tensor<16xf32>
  %all = tensor.empty() : tensor<16x69xf32>
  %f0 = linalg.fill ins(%low : f32) outs(%rows : tensor<16xf32>) -> tensor<16xf32>
  %m = linalg.generic {indexing_maps = [#whole, #row], iterator_types = ["parallel", "reduction"]} ins(%x : tensor<16x69xf32>) outs(%f0 : tensor<16xf32>) {
  ^bb0(%a: f32, %o: f32):
    %r = arith.maximumf %a, %o : f32
    linalg.yield %r : f32
  } -> tensor<16xf32>
  %e = linalg.generic {indexing_maps = [#whole, #row, #whole], iterator_types = ["parallel", "parallel"]} ins(%x, %m : tensor<16x69xf32>, tensor<16xf32>) outs(%all : tensor<16x69xf32>) {
  ^bb0(%a: f32, %b: f32, %o: f32):
    %d = arith.subf %a, %b : f32
    %r = math.exp %d : f32
    linalg.yield %r : f32
  } -> tensor<16x69xf32>
  %f1 = linalg.fill ins(%zero : f32) outs(%rows : tensor<16xf32>) -> tensor<16xf32>
  %s = linalg.generic {indexing_maps = [#whole, #row], iterator_types = ["parallel", "reduction"]} ins(%e : tensor<16x69xf32>) outs(%f1 : tensor<16xf32>) {
  ^bb0(%a: f32, %o: f32):
    %r = arith.addf %a, %o : f32
    linalg.yield %r : f32
  } -> tensor<16xf32>
  %q = linalg.generic {indexing_maps = [#whole, #row, #whole], iterator_types = ["parallel", "parallel"]} ins(%e, %s : tensor<16x69xf32>, tensor<16xf32>) outs(%all : tensor<16x69xf32>) {
  ^bb0(%a: f32, %b: f32, %o: f32):
    %r = arith.divf %a, %b : f32
    linalg.yield %r : f32
  } -> tensor<16x69xf32>
  return %q : tensor<16x69xf32>
}
