// RUN: mlcflow opt %s --schedule=%s | filecheck %s

// 10 rows by tiles of 4: the last tile starts at row 6, and every slice has 4 rows.
// CHECK: #{{.*}} = affine_map<(d0) -> (d0, 6)>
// CHECK: scf.for %[[I:.*]] = %c0 to %c10 step %c4
// CHECK: %[[START:.*]] = affine.min #{{.*}}(%[[I]])
// CHECK: tensor.extract_slice %{{.*}}[%[[START]], 0] [%{{.*}}, 12] [1, 1]
// CHECK: tensor.insert_slice %{{.*}} into %{{.*}}[%[[START]], 0] [%{{.*}}, 12] [1, 1]
module attributes {transform.with_named_sequence} {

  func.func @main(%a: tensor<10x12xf32>) -> tensor<10x12xf32> {
    %e = tensor.empty() : tensor<10x12xf32>
    %r = linalg.exp ins(%a : tensor<10x12xf32>) outs(%e : tensor<10x12xf32>) -> tensor<10x12xf32>
    return %r : tensor<10x12xf32>
  }

  transform.named_sequence @__transform_main(%main: !transform.any_op {transform.readonly}) {
    %root = transform.structured.match ops{["linalg.exp"]} in %main : (!transform.any_op) -> !transform.any_op
    %tiled, %loop = transform.structured.tile_using_for %root tile_sizes [4, 0] : (!transform.any_op) -> (!transform.any_op, !transform.any_op)
    "schedule.overlap_tiles"(%loop) : (!transform.any_op) -> ()
    transform.yield
  }
}
