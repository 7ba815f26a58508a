// RUN: mlcflow opt %s --pipeline=cpu --until=kernels | filecheck %s --check-prefix=KERNELS
// RUN: mlcflow opt %s --pipeline=cpu --target=cpu:skylake-avx512 --until=schedule | filecheck %s

// The weights are laid out anew, once; the product, its bias and ReLU are one kernel.
// KERNELS-LABEL: func.func @main
// KERNELS-SAME: tensor<3x3x32x16xf32> {mlcflow.prepared = "w#0"}
// KERNELS: call @conv_maximum
// KERNELS-NOT: call
// KERNELS-LABEL: func.func @prepare

// Channels by pixels of a row stay in registers over window and input channels.
// CHECK-LABEL: func.func private @conv_maximum
// CHECK-SAME: mlcflow.rule = "convolution"
// CHECK-COUNT-3: scf.for {{.*}} -> (vector<16x16xf32>)
// CHECK: vector.contract
// CHECK: arith.maximumf {{.*}} : vector<16x16xf32>
// CHECK: vector.transfer_write
func.func @main(%x: tensor<1x16x18x18xf32>, %w: tensor<32x16x3x3xf32> {mlcflow.parameter = "w"}) -> tensor<1x32x16x16xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<1x32x16x16xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<1x32x16x16xf32>) -> tensor<1x32x16x16xf32>
  %c = linalg.conv_2d_nchw_fchw {dilations = dense<1> : vector<2xi64>, strides = dense<1> : vector<2xi64>} ins(%x, %w : tensor<1x16x18x18xf32>, tensor<32x16x3x3xf32>) outs(%f : tensor<1x32x16x16xf32>) -> tensor<1x32x16x16xf32>
  %r = linalg.generic {indexing_maps = [affine_map<(a, b, c, d) -> (a, b, c, d)>, affine_map<(a, b, c, d) -> (a, b, c, d)>], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%c : tensor<1x32x16x16xf32>) outs(%e : tensor<1x32x16x16xf32>) {
  ^bb0(%in: f32, %out: f32):
    %m = arith.maximumf %in, %zero : f32
    linalg.yield %m : f32
  } -> tensor<1x32x16x16xf32>
  return %r : tensor<1x32x16x16xf32>
}
