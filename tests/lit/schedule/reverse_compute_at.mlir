// RUN: mlcflow opt %s --schedule=%s | filecheck %s

// The loop carries the result of the epilogue; the tile of the product goes into it directly.
// CHECK: %[[PLACE:.*]] = tensor.empty
// CHECK: %[[FILL:.*]] = linalg.fill
// CHECK: %[[RESULT:.*]] = scf.for %[[I:.*]] = {{.*}} iter_args(%[[T:.*]] = %[[PLACE]])
// CHECK: tensor.extract_slice %[[FILL]][%[[I]], 0]
// CHECK: %[[TILE:.*]] = linalg.matmul
// CHECK: tensor.extract_slice %[[T]][%[[I]], 0]
// CHECK: %[[RELU:.*]] = linalg.generic {{.*}} ins(%[[TILE]]
// CHECK: tensor.insert_slice %[[RELU]] into %[[T]]
// CHECK: return %[[RESULT]]
module attributes {transform.with_named_sequence} {

  func.func @main(%a: tensor<8x6xf32>, %b: tensor<6x12xf32>) -> tensor<8x12xf32> {
    %zero = arith.constant 0.0 : f32
    %e = tensor.empty() : tensor<8x12xf32>
    %f = linalg.fill ins(%zero : f32) outs(%e : tensor<8x12xf32>) -> tensor<8x12xf32>
    %r = linalg.matmul ins(%a, %b : tensor<8x6xf32>, tensor<6x12xf32>) outs(%f : tensor<8x12xf32>) -> tensor<8x12xf32>
    %s = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]} ins(%r : tensor<8x12xf32>) outs(%e : tensor<8x12xf32>) {
    ^bb0(%x: f32, %o: f32):
      %1 = arith.maximumf %x, %zero : f32
      linalg.yield %1 : f32
    } -> tensor<8x12xf32>
    return %s : tensor<8x12xf32>
  }

  transform.named_sequence @__transform_main(%main: !transform.any_op {transform.readonly}) {
    %root = transform.structured.match ops{["linalg.matmul"]} in %main : (!transform.any_op) -> !transform.any_op
    %tile, %rows = transform.structured.tile_using_for %root tile_sizes [4] : (!transform.any_op) -> (!transform.any_op, !transform.any_op)
    %kind = transform.param.constant "parallel" -> !transform.any_param
    transform.annotate %rows "mlcflow.kind" = %kind : !transform.any_op, !transform.any_param
    "schedule.reverse_compute_at"(%rows) {block_name = "final"} : (!transform.any_op) -> ()
    transform.yield
  }
}
