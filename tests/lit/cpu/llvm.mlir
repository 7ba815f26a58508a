// RUN: mlcflow opt %s --pipeline=cpu --target=cpu:skylake-avx512 --until=llvm | filecheck %s

// CHECK: mlcflow.interface
// CHECK-LABEL: llvm.func internal @main
// CHECK-NOT: @malloc
// CHECK-LABEL: llvm.func @matmul_add_maximum
// CHECK-SAME: no_inline
// CHECK-SAME: target_features = {{.*}}+avx512f
// CHECK: llvm.intr.fmuladd{{.*}}vector<16xf32>
// CHECK-NOT: builtin.unrealized_conversion_cast

func.func @main(%x: tensor<32x64xf32> {mlcflow.input = "x"},
                %w: tensor<16x64xf32> {mlcflow.parameter = "w"},
                %b: tensor<16xf32> {mlcflow.parameter = "b"}) -> tensor<32x16xf32> {
  %zero = arith.constant 0.0 : f32
  %e0 = tensor.empty() : tensor<64x16xf32>
  %wt = linalg.transpose ins(%w : tensor<16x64xf32>) outs(%e0 : tensor<64x16xf32>) permutation = [1, 0]
  %e1 = tensor.empty() : tensor<32x16xf32>
  %fill = linalg.fill ins(%zero : f32) outs(%e1 : tensor<32x16xf32>) -> tensor<32x16xf32>
  %mm = linalg.matmul ins(%x, %wt : tensor<32x64xf32>, tensor<64x16xf32>) outs(%fill : tensor<32x16xf32>) -> tensor<32x16xf32>
  %sum = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (j)>, affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]} ins(%mm, %b : tensor<32x16xf32>, tensor<16xf32>) outs(%e1 : tensor<32x16xf32>) {
  ^bb0(%m: f32, %c: f32, %o: f32):
    %s = arith.addf %m, %c : f32
    linalg.yield %s : f32
  } -> tensor<32x16xf32>
  %relu = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]} ins(%sum : tensor<32x16xf32>) outs(%e1 : tensor<32x16xf32>) {
  ^bb0(%m: f32, %o: f32):
    %r = arith.maximumf %m, %zero : f32
    linalg.yield %r : f32
  } -> tensor<32x16xf32>
  return %relu : tensor<32x16xf32>
}
