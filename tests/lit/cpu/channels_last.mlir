// RUN: mlcflow opt %s --pipeline=cpu --until=kernels | filecheck %s

// Two convolutions with all between them on images with channels last: a transpose where the
// image enters, none between, none behind the average.
// CHECK-LABEL: func.func @main
// CHECK: call @copy_kernel({{.*}}) : (tensor<3x12x12xf32>, tensor<12x12x3xf32>)
// CHECK-NEXT: tensor.empty() : tensor<10x10x8xf32>
// CHECK-NEXT: call @conv_tanh
// CHECK-NEXT: tensor.empty() : tensor<5x5x8xf32>
// CHECK-NEXT: call @reduce_maximum
// CHECK-NEXT: tensor.empty() : tensor<5x5x16xf32>
// CHECK-NEXT: call @contraction
// CHECK-NEXT: tensor.empty() : tensor<16xf32>
// CHECK-NEXT: call @reduce_add
// CHECK-NEXT: tensor.expand_shape
// CHECK-NEXT: return
#image = affine_map<(a, b, c, d) -> (a, b, c, d)>
#mean = affine_map<(a, b, c, d) -> (a, b)>
func.func @main(%x: tensor<1x3x12x12xf32>, %v: tensor<8x3x3x3xf32> {mlcflow.parameter = "v"}, %w: tensor<16x8x1x1xf32> {mlcflow.parameter = "w"}) -> tensor<1x16xf32> {
  %zero = arith.constant 0.0 : f32
  %low = arith.constant 0xFF800000 : f32
  %e0 = tensor.empty() : tensor<1x8x10x10xf32>
  %f0 = linalg.fill ins(%zero : f32) outs(%e0 : tensor<1x8x10x10xf32>) -> tensor<1x8x10x10xf32>
  %c0 = linalg.conv_2d_nchw_fchw {dilations = dense<1> : vector<2xi64>, strides = dense<1> : vector<2xi64>} ins(%x, %v : tensor<1x3x12x12xf32>, tensor<8x3x3x3xf32>) outs(%f0 : tensor<1x8x10x10xf32>) -> tensor<1x8x10x10xf32>
  %t = linalg.generic {indexing_maps = [#image, #image], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%c0 : tensor<1x8x10x10xf32>) outs(%e0 : tensor<1x8x10x10xf32>) {
  ^bb0(%in: f32, %out: f32):
    %m = math.tanh %in : f32
    linalg.yield %m : f32
  } -> tensor<1x8x10x10xf32>
  %window = tensor.empty() : tensor<2x2xf32>
  %e1 = tensor.empty() : tensor<1x8x5x5xf32>
  %f1 = linalg.fill ins(%low : f32) outs(%e1 : tensor<1x8x5x5xf32>) -> tensor<1x8x5x5xf32>
  %p = linalg.pooling_nchw_max {dilations = dense<1> : vector<2xi64>, strides = dense<2> : vector<2xi64>} ins(%t, %window : tensor<1x8x10x10xf32>, tensor<2x2xf32>) outs(%f1 : tensor<1x8x5x5xf32>) -> tensor<1x8x5x5xf32>
  %e2 = tensor.empty() : tensor<1x16x5x5xf32>
  %f2 = linalg.fill ins(%zero : f32) outs(%e2 : tensor<1x16x5x5xf32>) -> tensor<1x16x5x5xf32>
  %c2 = linalg.conv_2d_nchw_fchw {dilations = dense<1> : vector<2xi64>, strides = dense<1> : vector<2xi64>} ins(%p, %w : tensor<1x8x5x5xf32>, tensor<16x8x1x1xf32>) outs(%f2 : tensor<1x16x5x5xf32>) -> tensor<1x16x5x5xf32>
  %e3 = tensor.empty() : tensor<1x16xf32>
  %f3 = linalg.fill ins(%zero : f32) outs(%e3 : tensor<1x16xf32>) -> tensor<1x16xf32>
  %s = linalg.generic {indexing_maps = [#image, #mean], iterator_types = ["parallel", "parallel", "reduction", "reduction"]} ins(%c2 : tensor<1x16x5x5xf32>) outs(%f3 : tensor<1x16xf32>) {
  ^bb0(%in: f32, %out: f32):
    %m = arith.addf %out, %in : f32
    linalg.yield %m : f32
  } -> tensor<1x16xf32>
  return %s : tensor<1x16xf32>
}
