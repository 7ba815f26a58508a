// RUN: mlcflow opt %s --pipeline=reference --until=bufferize --split-input-file | filecheck %s

// Results are memory that the caller gives; nothing is allocated, what is written is said.
// CHECK: mlcflow.interface = {main =
// CHECK-SAME: name = "0", role = "output", type = memref<4x2xf32>
// CHECK: func.func @main({{.*}}, %[[OUT:.*]]: memref<4x2xf32> {mlcflow.output = "0"})
// CHECK-SAME: attributes {llvm.emit_c_interface}
// CHECK-NOT: memref.alloc
// CHECK: linalg.matmul ins({{.*}} : memref<4x8xf32>, memref<8x2xf32>) outs(%[[OUT]] : memref<4x2xf32>)
// CHECK-NOT: memref.copy
// CHECK: return{{$}}
func.func @main(%x: tensor<4x8xf32>, %w: tensor<8x2xf32>) -> tensor<4x2xf32> {
  %zero = arith.constant 0.0 : f32
  %empty = tensor.empty() : tensor<4x2xf32>
  %init = linalg.fill ins(%zero : f32) outs(%empty : tensor<4x2xf32>) -> tensor<4x2xf32>
  %y = linalg.matmul ins(%x, %w : tensor<4x8xf32>, tensor<8x2xf32>)
                     outs(%init : tensor<4x2xf32>) -> tensor<4x2xf32>
  return %y : tensor<4x2xf32>
}

// -----

// A size that only the function knows: it allocates the result and returns it.
// CHECK: func.func @main({{.*}}) -> (memref<?xf32> {mlcflow.output = "0"})
// CHECK: %[[NEW:.*]] = memref.alloc(
// CHECK: return %[[NEW]]
func.func @main(%x: tensor<?xf32>) -> tensor<?xf32> {
  %zero = arith.constant 0 : index
  %size = tensor.dim %x, %zero : tensor<?xf32>
  %empty = tensor.empty(%size) : tensor<?xf32>
  %y = linalg.map { arith.negf } ins(%x : tensor<?xf32>) outs(%empty : tensor<?xf32>)
  return %y : tensor<?xf32>
}
