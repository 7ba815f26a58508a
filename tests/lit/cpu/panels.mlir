// RUN: mlcflow opt %s --pipeline=cpu --target=cpu:skylake-avx512 --until=schedule | filecheck %s

// The weights are copied into panels of 32 columns once, in @prepare, and nothing keeps them in
// another form. 50 columns are two panels, of which the second starts at column 18.
// CHECK: func.func @main(%{{.*}}: tensor<40x64xf32> {{.*}}, %[[W:.*]]: tensor<2x64x32xf32> {mlcflow.prepared = "w/panels"})
// CHECK: call @[[KERNEL:.*]](%{{.*}}, %[[W]], %{{.*}})
// CHECK: func.func private @[[KERNEL]]_panels(
// CHECK: func.func private @[[KERNEL]](
// CHECK: vector.contract
// CHECK: func.func @prepare(%[[PARAMETER:.*]]: tensor<64x50xf32> {mlcflow.parameter = "w"}) -> (tensor<2x64x32xf32>
// CHECK: call @[[KERNEL]]_panels(%[[PARAMETER]],
func.func @main(%x: tensor<40x64xf32>, %w: tensor<64x50xf32> {mlcflow.parameter = "w"}) -> tensor<40x50xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<40x50xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<40x50xf32>) -> tensor<40x50xf32>
  %r = linalg.matmul ins(%x, %w : tensor<40x64xf32>, tensor<64x50xf32>) outs(%f : tensor<40x50xf32>) -> tensor<40x50xf32>
  return %r : tensor<40x50xf32>
}
