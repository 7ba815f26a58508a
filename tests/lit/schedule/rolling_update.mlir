// RUN: mlcflow opt %s --schedule=%s | filecheck %s

// The loop carries the largest score, the sum and the product of each row so far.
// CHECK: %[[ALL:.*]]:3 = scf.for {{.*}} iter_args(%[[MAX:.*]] = {{.*}}, %[[SUM:.*]] = {{.*}}, %[[OUT:.*]] = {{.*}}) -> (tensor<4xf32>, tensor<4xf32>, tensor<4x2xf32>)
// CHECK: tensor.extract_slice {{.*}} to tensor<6x3xf32>
// CHECK: %[[START:.*]] = linalg.copy {{.*}} ins(%[[MAX]]
// CHECK: linalg.generic {{.*}} outs(%[[START]]
// CHECK: %[[OLD:.*]] = arith.subf
// CHECK-NEXT: %[[LESS:.*]] = math.exp %[[OLD]]
// CHECK: %[[TOTAL:.*]] = linalg.generic {{.*}} outs(%[[SUM]]
// CHECK: linalg.generic {{.*}} outs(%[[TOTAL]]
// CHECK: %[[MADE:.*]] = linalg.generic {{.*}} outs(%[[OUT]]
// CHECK: linalg.matmul {{.*}} outs(%[[MADE]]
// CHECK: linalg.generic {{.*}} ins(%[[ALL]]#1, %[[ALL]]#2
#ij = affine_map<(i, j) -> (i, j)>
#i = affine_map<(i, j) -> (i)>
module attributes {transform.with_named_sequence} {

  func.func @main(%q: tensor<4x3xf32>, %k: tensor<12x3xf32>,
                  %v: tensor<12x2xf32>, %mask: tensor<4x12xf32>) -> tensor<4x2xf32> {
    %zero = arith.constant 0.0 : f32
    %lowest = arith.constant 0xFF800000 : f32
    %s = tensor.empty() : tensor<4x12xf32>
    %r = tensor.empty() : tensor<4xf32>
    %o = tensor.empty() : tensor<4x2xf32>
    %s0 = linalg.fill ins(%zero : f32) outs(%s : tensor<4x12xf32>) -> tensor<4x12xf32>
    %scores = linalg.generic {indexing_maps = [affine_map<(i, j, d) -> (i, d)>, affine_map<(i, j, d) -> (j, d)>, affine_map<(i, j, d) -> (i, j)>], iterator_types = ["parallel", "parallel", "reduction"]} ins(%q, %k : tensor<4x3xf32>, tensor<12x3xf32>) outs(%s0 : tensor<4x12xf32>) {
    ^bb0(%a: f32, %b: f32, %c: f32):
      %p = arith.mulf %a, %b : f32
      %t = arith.addf %c, %p : f32
      linalg.yield %t : f32
    } -> tensor<4x12xf32>
    %masked = linalg.generic {indexing_maps = [#ij, #ij, #ij], iterator_types = ["parallel", "parallel"]} ins(%scores, %mask : tensor<4x12xf32>, tensor<4x12xf32>) outs(%s : tensor<4x12xf32>) {
    ^bb0(%a: f32, %b: f32, %c: f32):
      %t = arith.addf %a, %b : f32
      linalg.yield %t : f32
    } -> tensor<4x12xf32>
    %r0 = linalg.fill ins(%lowest : f32) outs(%r : tensor<4xf32>) -> tensor<4xf32>
    %largest = linalg.generic {indexing_maps = [#ij, #i], iterator_types = ["parallel", "reduction"]} ins(%masked : tensor<4x12xf32>) outs(%r0 : tensor<4xf32>) {
    ^bb0(%a: f32, %c: f32):
      %t = arith.maximumf %a, %c : f32
      linalg.yield %t : f32
    } -> tensor<4xf32>
    %powers = linalg.generic {indexing_maps = [#ij, #i, #ij], iterator_types = ["parallel", "parallel"]} ins(%masked, %largest : tensor<4x12xf32>, tensor<4xf32>) outs(%s : tensor<4x12xf32>) {
    ^bb0(%a: f32, %b: f32, %c: f32):
      %t = arith.subf %a, %b : f32
      %e = math.exp %t : f32
      linalg.yield %e : f32
    } -> tensor<4x12xf32>
    %r1 = linalg.fill ins(%zero : f32) outs(%r : tensor<4xf32>) -> tensor<4xf32>
    %sums = linalg.generic {indexing_maps = [#ij, #i], iterator_types = ["parallel", "reduction"]} ins(%powers : tensor<4x12xf32>) outs(%r1 : tensor<4xf32>) {
    ^bb0(%a: f32, %c: f32):
      %t = arith.addf %a, %c : f32
      linalg.yield %t : f32
    } -> tensor<4xf32>
    %o0 = linalg.fill ins(%zero : f32) outs(%o : tensor<4x2xf32>) -> tensor<4x2xf32>
    %product = linalg.matmul ins(%powers, %v : tensor<4x12xf32>, tensor<12x2xf32>) outs(%o0 : tensor<4x2xf32>) -> tensor<4x2xf32>
    %result = linalg.generic {indexing_maps = [#i, #ij, #ij], iterator_types = ["parallel", "parallel"]} ins(%sums, %product : tensor<4xf32>, tensor<4x2xf32>) outs(%o : tensor<4x2xf32>) {
    ^bb0(%a: f32, %b: f32, %c: f32):
      %t = arith.divf %b, %a : f32
      linalg.yield %t : f32
    } -> tensor<4x2xf32>
    return %result : tensor<4x2xf32>
  }

  transform.named_sequence @__transform_main(%main: !transform.any_op {transform.readonly}) {
    %root = transform.structured.match attributes {mlcflow.block = "root"} in %main : (!transform.any_op) -> !transform.any_op
    "schedule.rolling_update"(%root) {size = 6 : i64, loop_name = "j_0"} : (!transform.any_op) -> ()
    transform.yield
  }
}
