// RUN: mlcflow opt %s --schedule=%s | filecheck %s

// The tile is computed by the library, into the place that the fill has set.
// CHECK: scf.for
// CHECK: %[[A:.*]] = tensor.cast {{.*}} : tensor<4x6xf32> to tensor<?x?xf32>
// CHECK: %[[B:.*]] = tensor.cast {{.*}} : tensor<6x12xf32> to tensor<?x?xf32>
// CHECK: %[[C:.*]] = tensor.cast {{.*}} : tensor<4x12xf32> to tensor<?x?xf32>
// CHECK: %[[RESULT:.*]] = func.call @library_sgemm(%[[A]], %[[B]], %[[C]])
// CHECK: tensor.cast %[[RESULT]] : tensor<?x?xf32> to tensor<4x12xf32>
// CHECK: func.func private @library_sgemm(tensor<?x?xf32>, tensor<?x?xf32>, tensor<?x?xf32>) -> tensor<?x?xf32> attributes {mlcflow.library = "sgemm"}
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
    %tiled, %loop = transform.structured.tile_using_for %root tile_sizes [4] : (!transform.any_op) -> (!transform.any_op, !transform.any_op)
    "schedule.call_library"(%tiled) {library = "sgemm"} : (!transform.any_op) -> ()
    transform.yield
  }
}
