// RUN: mlcflow opt %s --pipeline=cpu --target=cpu:skylake-avx512 --until=schedule | filecheck %s

// Squares of 16 by 16 are turned in registers; 40 columns are three squares, the last of which
// starts at column 24.
// CHECK: #[[START:.*]] = affine_map<(d0) -> (24, d0)>
// CHECK: func.func private @{{.*}} attributes {mlcflow.kernel, mlcflow.rule = "transposition"}
// CHECK: affine.min #[[START]]
// CHECK: %[[SQUARE:.*]] = vector.transfer_read {{.*}} : tensor<64x40xf32>, vector<16x16xf32>
// CHECK: vector.transfer_write %[[SQUARE]], {{.*}} : vector<16x16xf32>, tensor<40x64xf32>
func.func @main(%x: tensor<64x40xf32>) -> tensor<40x64xf32> {
  %e = tensor.empty() : tensor<40x64xf32>
  %r = linalg.transpose ins(%x : tensor<64x40xf32>) outs(%e : tensor<40x64xf32>) permutation = [1, 0]
  return %r : tensor<40x64xf32>
}
