// RUN: mlcflow opt %s --pipeline=cpu --until=kernels | filecheck %s
// RUN: mlcflow opt %s --pipeline=cpu --option fast_math=false --until=kernels | filecheck %s --check-prefix=EXACT

// What scales a channel is in the weights before the model runs; the kernel adds one shift.
// CHECK-LABEL: func.func @main
// CHECK: call @conv_add
// CHECK-LABEL: func.func @prepare
// CHECK: call @mul_copy
// CHECK-LABEL: func.func private @conv_add
// CHECK: linalg.yield
// CHECK: arith.addf
// CHECK-NEXT: linalg.yield

// Without fast_math the operations stay as they are.
// EXACT-LABEL: func.func @main
// EXACT-COUNT-1: call @conv_sub_mul_add
#image = affine_map<(a, b, c, d) -> (a, b, c, d)>
#channel = affine_map<(a, b, c, d) -> (b)>
func.func @main(%x: tensor<1x3x12x12xf32>, %v: tensor<8x3x3x3xf32> {mlcflow.parameter = "v"}, %mean: tensor<8xf32> {mlcflow.parameter = "mean"}, %gain: tensor<8xf32> {mlcflow.parameter = "gain"}, %bias: tensor<8xf32> {mlcflow.parameter = "bias"}) -> tensor<1x8x10x10xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<1x8x10x10xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<1x8x10x10xf32>) -> tensor<1x8x10x10xf32>
  %c = linalg.conv_2d_nchw_fchw {dilations = dense<1> : vector<2xi64>, strides = dense<1> : vector<2xi64>} ins(%x, %v : tensor<1x3x12x12xf32>, tensor<8x3x3x3xf32>) outs(%f : tensor<1x8x10x10xf32>) -> tensor<1x8x10x10xf32>
  %r = linalg.generic {indexing_maps = [#image, #channel, #channel, #channel, #image], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%c, %mean, %gain, %bias : tensor<1x8x10x10xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>) outs(%e : tensor<1x8x10x10xf32>) {
  ^bb0(%in: f32, %m: f32, %g: f32, %b: f32, %out: f32):
    %1 = arith.subf %in, %m : f32
    %2 = arith.mulf %1, %g : f32
    %3 = arith.addf %2, %b : f32
    linalg.yield %3 : f32
  } -> tensor<1x8x10x10xf32>
  return %r : tensor<1x8x10x10xf32>
}
