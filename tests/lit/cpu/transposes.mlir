// RUN: mlcflow opt %s --pipeline=cpu --target=cpu:skylake-avx512 --until=schedule | filecheck %s

// The product reads the weights as they are stored, and @prepare turns them while it copies them
// into panels: there is no transpose of its own.
// CHECK: func.func @main(%{{.*}}, %{{.*}}: tensor<10x64x32xf32> {mlcflow.prepared = "w/panels"})
// CHECK-NOT: mlcflow.rule = "transposition"
// CHECK: func.func private @{{.*}}_panels(%[[W:.*]]: tensor<300x64xf32>
// CHECK: vector.transfer_read %[[W]]{{.*}} permutation_map = {{.*}} : tensor<300x64xf32>, vector<16x16xf32>
// CHECK-NOT: mlcflow.rule = "transposition"
// CHECK: vector.contract
// CHECK: func.func @prepare(%{{.*}}: tensor<300x64xf32> {mlcflow.parameter = "w"})
func.func @main(%x: tensor<40x64xf32>, %w: tensor<300x64xf32> {mlcflow.parameter = "w"}) -> tensor<40x300xf32> {
  %zero = arith.constant 0.0 : f32
  %t = tensor.empty() : tensor<64x300xf32>
  %wt = linalg.transpose ins(%w : tensor<300x64xf32>) outs(%t : tensor<64x300xf32>) permutation = [1, 0]
  %e = tensor.empty() : tensor<40x300xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<40x300xf32>) -> tensor<40x300xf32>
  %r = linalg.matmul ins(%x, %wt : tensor<40x64xf32>, tensor<64x300xf32>) outs(%f : tensor<40x300xf32>) -> tensor<40x300xf32>
  return %r : tensor<40x300xf32>
}
