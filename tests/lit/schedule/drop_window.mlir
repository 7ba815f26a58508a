// RUN: mlcflow opt %s --schedule=%s | filecheck %s

// Position 2 * x + r, where r is 0 only: every other pixel of the row, one after the other.
// CHECK: #[[IMAGE:.*]] = affine_map<(d0, d1, d2, d3) -> (d0, d3)>
// CHECK: %[[PIXELS:.*]] = tensor.extract_slice %arg0[0, 0] [8, 4] [2, 1] : tensor<15x4xf32> to tensor<8x4xf32>
// CHECK: linalg.generic {indexing_maps = [#[[IMAGE]], {{.*}} ins(%[[PIXELS]], %arg1
#image = affine_map<(x, f, r, c) -> (x * 2 + r, c)>
#weights = affine_map<(x, f, r, c) -> (r, c, f)>
#result = affine_map<(x, f, r, c) -> (x, f)>
module attributes {transform.with_named_sequence} {

  func.func @main(%i: tensor<15x4xf32>, %w: tensor<1x4x16xf32>, %e: tensor<8x16xf32>) -> tensor<8x16xf32> {
    %r = linalg.generic {indexing_maps = [#image, #weights, #result], iterator_types = ["parallel", "parallel", "reduction", "reduction"]} ins(%i, %w : tensor<15x4xf32>, tensor<1x4x16xf32>) outs(%e : tensor<8x16xf32>) {
    ^bb0(%a: f32, %b: f32, %o: f32):
      %1 = arith.mulf %a, %b : f32
      %2 = arith.addf %o, %1 : f32
      linalg.yield %2 : f32
    } -> tensor<8x16xf32>
    return %r : tensor<8x16xf32>
  }

  transform.named_sequence @__transform_main(%main: !transform.any_op {transform.readonly}) {
    %root = transform.structured.match ops{["linalg.generic"]} in %main : (!transform.any_op) -> !transform.any_op
    "schedule.drop_window"(%root) : (!transform.any_op) -> ()
    transform.yield
  }
}
