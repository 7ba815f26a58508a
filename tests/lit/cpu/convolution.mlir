// RUN: mlcflow opt %s --pipeline=cpu --until=kernels | filecheck %s --check-prefix=KERNELS
// RUN: mlcflow opt %s --pipeline=cpu --target=cpu:skylake-avx512 --until=schedule | filecheck %s

// Channels last; the weights are laid out anew, once; padding, convolution, bias and ReLU are
// two kernels, the first of which writes the image into the middle of the padded one.
// KERNELS-LABEL: func.func @main
// KERNELS-SAME: tensor<3x3x16x64xf32> {mlcflow.prepared = "w#0"}
// KERNELS: call @copy_kernel({{.*}}) : (tensor<16x28x28xf32>, tensor<30x30x16xf32>)
// KERNELS: call @conv_maximum
// KERNELS-LABEL: func.func private @copy_kernel
// KERNELS-COUNT-4: linalg.fill

// Pixels of a row by channels stay in registers over window and input channels.
// CHECK-LABEL: func.func private @conv_maximum(
// CHECK-SAME: mlcflow.rule = "convolution"
// CHECK-COUNT-3: scf.for {{.*}} -> (vector<7x32xf32>)
// CHECK: vector.contract
// CHECK: arith.maximumf {{.*}} : vector<7x32xf32>
// CHECK: vector.transfer_write
func.func @main(%x: tensor<1x16x28x28xf32>, %w: tensor<64x16x3x3xf32> {mlcflow.parameter = "w"}) -> tensor<1x64x28x28xf32> {
  %zero = arith.constant 0.0 : f32
  %p = tensor.pad %x low[0, 0, 1, 1] high[0, 0, 1, 1] {
  ^bb0(%i0: index, %i1: index, %i2: index, %i3: index):
    tensor.yield %zero : f32
  } : tensor<1x16x28x28xf32> to tensor<1x16x30x30xf32>
  %e = tensor.empty() : tensor<1x64x28x28xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<1x64x28x28xf32>) -> tensor<1x64x28x28xf32>
  %c = linalg.conv_2d_nchw_fchw {dilations = dense<1> : vector<2xi64>, strides = dense<1> : vector<2xi64>} ins(%p, %w : tensor<1x16x30x30xf32>, tensor<64x16x3x3xf32>) outs(%f : tensor<1x64x28x28xf32>) -> tensor<1x64x28x28xf32>
  %r = linalg.generic {indexing_maps = [affine_map<(a, b, c, d) -> (a, b, c, d)>, affine_map<(a, b, c, d) -> (a, b, c, d)>], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%c : tensor<1x64x28x28xf32>) outs(%e : tensor<1x64x28x28xf32>) {
  ^bb0(%in: f32, %out: f32):
    %m = arith.maximumf %in, %zero : f32
    linalg.yield %m : f32
  } -> tensor<1x64x28x28xf32>
  return %r : tensor<1x64x28x28xf32>
}
