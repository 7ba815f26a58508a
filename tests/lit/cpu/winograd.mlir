// RUN: mlcflow opt %s --pipeline=cpu --target=cpu:skylake-avx512 --until=kernels | filecheck %s --check-prefix=KERNELS
// RUN: mlcflow opt %s --pipeline=cpu --target=cpu:skylake-avx512 --until=schedule | filecheck %s

// Three kernels, of which the product has a matrix for each of the 36 planes; the filters, made
// in @prepare, are an argument. The last kernel adds the bias to the pixels it writes.
// KERNELS-LABEL: func.func @main
// KERNELS-SAME: tensor<36x64x64xf32> {mlcflow.prepared = "w#0"}
// KERNELS: call @transform_kernel{{.*}} -> tensor<6x6x7x7x64xf32>
// KERNELS: call @batch_matmul_kernel{{.*}} -> tensor<36x49x64xf32>
// KERNELS: call @transform_add({{.*}} -> tensor<7x4x7x4x64xf32>
// KERNELS-LABEL: func.func @prepare
// KERNELS: call @matmul_kernel{{.*}} -> tensor<36x4096xf32>

// A tile at a time: 36 vectors of pixels in, 36 out, and no choice is left.
// CHECK-LABEL: func.func private @transform_kernel(
// CHECK-SAME: mlcflow.rule = "winograd"
// CHECK-NOT: arith.select
// CHECK-COUNT-36: vector.transfer_write {{.*}} : vector<16xf32>, tensor
// CHECK-LABEL: func.func private @transform_add(
// CHECK-COUNT-16: vector.transfer_write {{.*}} : vector<16xf32>, tensor
func.func @main(%x: tensor<1x64x28x28xf32>, %w: tensor<64x64x3x3xf32> {mlcflow.parameter = "w"}, %b: tensor<64xf32> {mlcflow.parameter = "b"}) -> tensor<1x64x28x28xf32> {
  %zero = arith.constant 0.0 : f32
  %p = tensor.pad %x low[0, 0, 1, 1] high[0, 0, 1, 1] {
  ^bb0(%i0: index, %i1: index, %i2: index, %i3: index):
    tensor.yield %zero : f32
  } : tensor<1x64x28x28xf32> to tensor<1x64x30x30xf32>
  %e = tensor.empty() : tensor<1x64x28x28xf32>
  %f = linalg.broadcast ins(%b : tensor<64xf32>) outs(%e : tensor<1x64x28x28xf32>) dimensions = [0, 2, 3]
  %c = linalg.conv_2d_nchw_fchw {dilations = dense<1> : vector<2xi64>, strides = dense<1> : vector<2xi64>} ins(%p, %w : tensor<1x64x30x30xf32>, tensor<64x64x3x3xf32>) outs(%f : tensor<1x64x28x28xf32>) -> tensor<1x64x28x28xf32>
  return %c : tensor<1x64x28x28xf32>
}
