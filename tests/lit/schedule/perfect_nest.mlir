// RUN: mlcflow opt %s --schedule=%s | filecheck %s

// Tiled one after the other, the loops take a slice of rows between them. The inner one then
// carries the whole tensor and takes its slice, rows and columns, itself.
// CHECK: scf.for %[[I:.*]] = {{.*}} iter_args(%[[T:.*]] = %
// CHECK: scf.for %[[J:.*]] = {{.*}} iter_args(%{{.*}} = %[[T]]) -> (tensor<8x12xf32>)
// CHECK: linalg.matmul {{.*}} -> tensor<4x3xf32>
// CHECK: %[[WHOLE:.*]] = tensor.insert_slice {{.*}} : tensor<4x3xf32> into tensor<8x12xf32>
// CHECK-NEXT: scf.yield %[[WHOLE]]
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
    %tile, %rows = transform.structured.tile_using_for %root tile_sizes [4] : (!transform.any_op) -> (!transform.any_op, !transform.any_op)
    %part, %columns = transform.structured.tile_using_for %tile tile_sizes [0, 3] : (!transform.any_op) -> (!transform.any_op, !transform.any_op)
    "schedule.perfect_nest"(%rows) : (!transform.any_op) -> ()
    transform.yield
  }
}
