// RUN: mlcflow opt %s --schedule=%s | filecheck %s

// The fill sets the fresh memory, the result is copied to the destination.
// CHECK: %[[PLACE:.*]] = tensor.empty() : tensor<8x12xf32>
// CHECK: %[[FRESH:.*]] = tensor.empty() : tensor<8x12xf32>
// CHECK: %[[FILL:.*]] = linalg.fill {{.*}} outs(%[[FRESH]]
// CHECK: %[[ROOT:.*]] = linalg.matmul {{.*}} outs(%[[FILL]]
// CHECK: %[[COPY:.*]] = linalg.copy {{.*}} mlcflow.block = "out"} ins(%[[ROOT]] : {{.*}}) outs(%[[PLACE]]
// CHECK: return %[[COPY]]
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
    "schedule.cache_write"(%root) {block_name = "out"} : (!transform.any_op) -> ()
    transform.yield
  }
}
