// RUN: mlcflow opt %s --schedule=%s | filecheck %s

// Blocks and their loops get names; what has a name keeps it.
// CHECK: linalg.fill {mlcflow.block = "fill0", mlcflow.loops = ["i", "j"]}
// CHECK: linalg.matmul {mlcflow.block = "root", mlcflow.loops = ["i", "j", "k"]}
module attributes {transform.with_named_sequence} {

  func.func @main(%a: tensor<8x6xf32>, %b: tensor<6x12xf32>) -> tensor<8x12xf32> {
    %zero = arith.constant 0.0 : f32
    %e = tensor.empty() : tensor<8x12xf32>
    %f = linalg.fill ins(%zero : f32) outs(%e : tensor<8x12xf32>) -> tensor<8x12xf32>
    %r = linalg.matmul ins(%a, %b : tensor<8x6xf32>, tensor<6x12xf32>) outs(%f : tensor<8x12xf32>) -> tensor<8x12xf32>
    return %r : tensor<8x12xf32>
  }

  transform.named_sequence @__transform_main(%main: !transform.any_op {transform.readonly}) {
    "schedule.name_blocks"(%main) : (!transform.any_op) -> ()
    transform.yield
  }
}
