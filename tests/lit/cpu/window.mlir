// RUN: mlcflow opt %s --pipeline=cpu --target=cpu:skylake-avx512 --until=schedule | filecheck %s

// A depthwise convolution that fills the border of the next image: pixels by channels in
// registers over the window; every other pixel, since the window moves by 2.
// CHECK-LABEL: func.func private @conv_kernel
// CHECK-SAME: -> tensor<10x10x32xf32> attributes {mlcflow.kernel, mlcflow.rule = "window"}
// CHECK: vector.transfer_write {{.*}} : vector<1x1x32xf32>, tensor<1x10x32xf32>
// CHECK: scf.for {{.*}} -> (vector<4x32xf32>)
// CHECK: tensor.extract_slice {{.*}} [1, 4, 32] [1, 2, 1]
// CHECK: arith.mulf {{.*}} fastmath<contract> : vector<4x32xf32>
// CHECK-LABEL: func.func private @reduce_maximum
// CHECK-SAME: mlcflow.rule = "window"
// CHECK: arith.maximumf {{.*}} : vector<4x32xf32>
func.func @main(%x: tensor<1x32x17x17xf32>, %w: tensor<32x3x3xf32> {mlcflow.parameter = "w"}) -> tensor<1x32x8x8xf32> {
  %zero = arith.constant 0.0 : f32
  %low = arith.constant 0xFF800000 : f32
  %e0 = tensor.empty() : tensor<1x32x8x8xf32>
  %f0 = linalg.fill ins(%zero : f32) outs(%e0 : tensor<1x32x8x8xf32>) -> tensor<1x32x8x8xf32>
  %c = linalg.depthwise_conv_2d_nchw_chw {dilations = dense<1> : vector<2xi64>, strides = dense<2> : vector<2xi64>} ins(%x, %w : tensor<1x32x17x17xf32>, tensor<32x3x3xf32>) outs(%f0 : tensor<1x32x8x8xf32>) -> tensor<1x32x8x8xf32>
  %p = tensor.pad %c low[0, 0, 1, 1] high[0, 0, 1, 1] {
  ^bb0(%i0: index, %i1: index, %i2: index, %i3: index):
    tensor.yield %low : f32
  } : tensor<1x32x8x8xf32> to tensor<1x32x10x10xf32>
  %window = tensor.empty() : tensor<3x3xf32>
  %f1 = linalg.fill ins(%low : f32) outs(%e0 : tensor<1x32x8x8xf32>) -> tensor<1x32x8x8xf32>
  %r = linalg.pooling_nchw_max {dilations = dense<1> : vector<2xi64>, strides = dense<1> : vector<2xi64>} ins(%p, %window : tensor<1x32x10x10xf32>, tensor<3x3xf32>) outs(%f1 : tensor<1x32x8x8xf32>) -> tensor<1x32x8x8xf32>
  return %r : tensor<1x32x8x8xf32>
}
