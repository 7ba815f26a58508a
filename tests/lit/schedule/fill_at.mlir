// RUN: mlcflow opt %s --schedule=%s | filecheck %s

// Each iteration fills its own tile, and the loop starts from an empty tensor.
// CHECK: %[[EMPTY:.*]] = tensor.empty() : tensor<8x12xf32>
// CHECK-NOT: linalg.fill
// CHECK: scf.for {{.*}} iter_args(%[[SUMS:.*]] = %[[EMPTY]])
// CHECK: %[[TILE:.*]] = tensor.extract_slice %[[SUMS]]
// CHECK: %[[FILLED:.*]] = linalg.fill {{.*}} outs(%[[TILE]] :
// CHECK: linalg.matmul {{.*}} outs(%[[FILLED]] :
module attributes {transform.with_named_sequence} {

  func.func @main(%a: tensor<8x6xf32>, %b: tensor<6x12xf32>) -> tensor<8x12xf32> {
    %zero = arith.constant 0.0 : f32
    %e = tensor.empty() : tensor<8x12xf32>
    %f = linalg.fill ins(%zero : f32) outs(%e : tensor<8x12xf32>) -> tensor<8x12xf32>
    %r = linalg.matmul ins(%a, %b : tensor<8x6xf32>, tensor<6x12xf32>) outs(%f : tensor<8x12xf32>) -> tensor<8x12xf32>
    return %r : tensor<8x12xf32>
  }

  transform.named_sequence @__transform_main(%main: !transform.any_op {transform.readonly}) {
    %root = transform.structured.match ops{["linalg.matmul"]} in %main : (!transform.any_op) -> !transform.any_op
    %tiled, %loop = transform.structured.tile_using_for %root tile_sizes [4, 0, 0] : (!transform.any_op) -> (!transform.any_op, !transform.any_op)
    %name = transform.param.constant "i_0" -> !transform.any_param
    %of = transform.param.constant "root" -> !transform.any_param
    transform.annotate %loop "mlcflow.loop" = %name : !transform.any_op, !transform.any_param
    transform.annotate %loop "mlcflow.of" = %of : !transform.any_op, !transform.any_param
    "schedule.fill_at"(%tiled) {loop_name = "i_0", loop_of = "root"} : (!transform.any_op) -> ()
    transform.yield
  }
}
