// RUN: mlcflow opt %s --schedule=%s | filecheck %s

// A loop ahead of the one that reads copies the columns of each iteration into a panel.
// CHECK: %[[EMPTY:.*]] = tensor.empty() : tensor<3x6x4xf32>
// CHECK: %[[PANELS:.*]] = scf.for %{{.*}} = %c0 to %c12 step %c4 iter_args(%[[MADE:.*]] = %[[EMPTY]])
// CHECK: tensor.extract_slice %arg1
// CHECK: linalg.copy {{.*}} mlcflow.block = "b_panels"
// CHECK: tensor.insert_slice %{{.*}} into %[[MADE]]
// CHECK: } {mlcflow.kind = "parallel", mlcflow.loop = "j_0", mlcflow.of = "b_panels"}
// CHECK: scf.for
// CHECK: %[[PANEL:.*]] = tensor.extract_slice %[[PANELS]]
// CHECK: linalg.matmul {{.*}} ins(%{{.*}}, %[[PANEL]] :
module attributes {transform.with_named_sequence} {

  func.func @main(%a: tensor<8x6xf32>, %b: tensor<6x12xf32>, %c: tensor<8x12xf32>) -> tensor<8x12xf32> {
    %r = linalg.matmul ins(%a, %b : tensor<8x6xf32>, tensor<6x12xf32>) outs(%c : tensor<8x12xf32>) -> tensor<8x12xf32>
    return %r : tensor<8x12xf32>
  }

  transform.named_sequence @__transform_main(%main: !transform.any_op {transform.readonly}) {
    %root = transform.structured.match ops{["linalg.matmul"]} in %main : (!transform.any_op) -> !transform.any_op
    %tiled, %loop = transform.structured.tile_using_for %root tile_sizes [0, 4, 0] : (!transform.any_op) -> (!transform.any_op, !transform.any_op)
    %name = transform.param.constant "j_0" -> !transform.any_param
    %of = transform.param.constant "root" -> !transform.any_param
    %kind = transform.param.constant "parallel" -> !transform.any_param
    transform.annotate %loop "mlcflow.loop" = %name : !transform.any_op, !transform.any_param
    transform.annotate %loop "mlcflow.of" = %of : !transform.any_op, !transform.any_param
    transform.annotate %loop "mlcflow.kind" = %kind : !transform.any_op, !transform.any_param
    "schedule.cache_panels"(%tiled) {operand_number = 1 : i64, block_name = "b_panels", loop_name = "j_0", loop_of = "root", ahead_name = "j_0", ahead_of = "root", permutation = [0, 1]} : (!transform.any_op) -> ()
    transform.yield
  }
}
