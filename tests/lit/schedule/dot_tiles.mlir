// RUN: mlcflow opt %s --schedule=%s | filecheck %s

// Two rows times two registers of columns. Rows of B are interleaved in pairs; upstream's pattern
// takes each tile of one row for a dot product.
// CHECK: %[[C:.*]] = vector.transfer_read {{.*}} : tensor<2x32xf32>, vector<2x32xf32>
// CHECK: %[[ROW0:.*]] = vector.extract_strided_slice %[[C]] {offsets = [0, 0], sizes = [1, 16]
// CHECK: %[[B:.*]] = vector.interleave {{.*}} : vector<16xbf16> -> vector<32xbf16>
// CHECK: %[[A:.*]] = vector.transfer_read {{.*}} : tensor<2x2xbf16>, vector<2xbf16>
// CHECK: %[[ACC:.*]] = vector.shape_cast %[[ROW0]]
// CHECK: %[[PAIR:.*]] = vector.bitcast %[[A]] : vector<2xbf16> to vector<1xi32>
// CHECK: %[[SAME:.*]] = vector.broadcast %[[PAIR]] : vector<1xi32> to vector<16xi32>
// CHECK: %[[PAIRS:.*]] = vector.bitcast %[[SAME]] : vector<16xi32> to vector<32xbf16>
// CHECK: x86.avx512.dot %[[ACC]], %[[PAIRS]], %[[B]] : vector<32xbf16> -> vector<16xf32>
// CHECK-COUNT-3: x86.avx512.dot
// CHECK-COUNT-4: vector.insert_strided_slice
// CHECK: vector.transfer_write
module attributes {transform.with_named_sequence} {

  func.func @main(%a: tensor<2x2xbf16>, %b: tensor<2x32xbf16>, %c: tensor<2x32xf32>) -> tensor<2x32xf32> {
    %r = linalg.matmul ins(%a, %b : tensor<2x2xbf16>, tensor<2x32xbf16>) outs(%c : tensor<2x32xf32>) -> tensor<2x32xf32>
    return %r : tensor<2x32xf32>
  }

  transform.named_sequence @__transform_main(%main: !transform.any_op {transform.readonly}) {
    %root = transform.structured.match ops{["linalg.matmul"]} in %main : (!transform.any_op) -> !transform.any_op
    "schedule.dot_tiles"(%root) : (!transform.any_op) -> ()
    transform.apply_patterns to %main {
      transform.apply_patterns.x86.vector_contract_to_packed_type_dot_product
    } : !transform.any_op
    transform.apply_patterns to %main {
      transform.apply_patterns.canonicalization
    } : !transform.any_op
    transform.yield
  }
}
