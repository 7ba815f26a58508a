// RUN: mlcflow opt %s --schedule=%s | filecheck %s

// Bounds, uses and names change places.
// CHECK: scf.for %[[J:.*]] = %c0 to %c12 step %c3
// CHECK: scf.for %[[I:.*]] = %c0 to %c8 step %c4
// CHECK: tensor.extract_slice %arg0[%[[I]], %[[J]]] [4, 3]
// CHECK: linalg.exp
// CHECK: mlcflow.loop = "i_0"
// CHECK: mlcflow.loop = "j_0"
module attributes {transform.with_named_sequence} {

  func.func @main(%x: tensor<8x12xf32>) -> tensor<8x12xf32> {
    %e = tensor.empty() : tensor<8x12xf32>
    %c0 = arith.constant 0 : index
    %c3 = arith.constant 3 : index
    %c4 = arith.constant 4 : index
    %c8 = arith.constant 8 : index
    %c12 = arith.constant 12 : index
    %r = scf.for %i = %c0 to %c8 step %c4 iter_args(%t = %e) -> (tensor<8x12xf32>) {
      %s = scf.for %j = %c0 to %c12 step %c3 iter_args(%u = %t) -> (tensor<8x12xf32>) {
        %from = tensor.extract_slice %x[%i, %j] [4, 3] [1, 1] : tensor<8x12xf32> to tensor<4x3xf32>
        %to = tensor.extract_slice %u[%i, %j] [4, 3] [1, 1] : tensor<8x12xf32> to tensor<4x3xf32>
        %v = linalg.exp ins(%from : tensor<4x3xf32>) outs(%to : tensor<4x3xf32>) -> tensor<4x3xf32>
        %w = tensor.insert_slice %v into %u[%i, %j] [4, 3] [1, 1] : tensor<4x3xf32> into tensor<8x12xf32>
        scf.yield %w : tensor<8x12xf32>
      } {mlcflow.loop = "j_0", mlcflow.of = "root", mlcflow.kind = "parallel"}
      scf.yield %s : tensor<8x12xf32>
    } {mlcflow.loop = "i_0", mlcflow.of = "root", mlcflow.kind = "parallel"}
    return %r : tensor<8x12xf32>
  }

  transform.named_sequence @__transform_main(%main: !transform.any_op {transform.readonly}) {
    %loop = transform.structured.match attributes {mlcflow.loop = "i_0"} in %main : (!transform.any_op) -> !transform.any_op
    "schedule.interchange_loops"(%loop) : (!transform.any_op) -> ()
    transform.yield
  }
}
