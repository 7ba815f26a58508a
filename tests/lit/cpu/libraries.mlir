// RUN: mlcflow opt %s --pipeline=cpu --start=bufferize --until=bufferize | filecheck %s --check-prefix=MEMORY
// RUN: mlcflow opt %s --pipeline=cpu --start=bufferize --until=loops | filecheck %s --check-prefix=CALL

// A part of an array goes in, a part of the result comes out: nothing is copied.
// MEMORY-LABEL: func.func @main
// MEMORY-NOT: memref.copy
// MEMORY: linalg.matmul {mlcflow.library = "sgemm"} ins({{.*}} : memref<4x6xf32, strided<[6, 1], offset: ?>>, memref<6x12xf32>) outs({{.*}} : memref<4x12xf32, strided<[12, 1], offset: ?>>)
// MEMORY-NOT: memref.copy
// MEMORY: return

// CALL-LABEL: func.func @main
// CALL-COUNT-3: memref.cast {{.*}} to memref<?x?xf32, strided<[?, 1], offset: ?>>
// CALL: func.call @library_sgemm
// CALL: func.func private @library_sgemm(
// CALL: call @mlcflow_cblas_sgemm_
func.func private @library_sgemm(tensor<?x?xf32>, tensor<?x?xf32>, tensor<?x?xf32>) -> tensor<?x?xf32> attributes {mlcflow.library = "sgemm"}
func.func @main(%a: tensor<8x6xf32> {mlcflow.input = "a"}, %b: tensor<6x12xf32> {mlcflow.input = "b"}) -> (tensor<8x12xf32> {mlcflow.output = "0"}) {
  %c0 = arith.constant 0 : index
  %c4 = arith.constant 4 : index
  %c8 = arith.constant 8 : index
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<8x12xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<8x12xf32>) -> tensor<8x12xf32>
  %r = scf.for %i = %c0 to %c8 step %c4 iter_args(%acc = %f) -> (tensor<8x12xf32>) {
    %rows = tensor.extract_slice %a[%i, 0] [4, 6] [1, 1] : tensor<8x6xf32> to tensor<4x6xf32>
    %place = tensor.extract_slice %acc[%i, 0] [4, 12] [1, 1] : tensor<8x12xf32> to tensor<4x12xf32>
    %0 = tensor.cast %rows : tensor<4x6xf32> to tensor<?x?xf32>
    %1 = tensor.cast %b : tensor<6x12xf32> to tensor<?x?xf32>
    %2 = tensor.cast %place : tensor<4x12xf32> to tensor<?x?xf32>
    %3 = func.call @library_sgemm(%0, %1, %2) : (tensor<?x?xf32>, tensor<?x?xf32>, tensor<?x?xf32>) -> tensor<?x?xf32>
    %4 = tensor.cast %3 : tensor<?x?xf32> to tensor<4x12xf32>
    %5 = tensor.insert_slice %4 into %acc[%i, 0] [4, 12] [1, 1] : tensor<4x12xf32> into tensor<8x12xf32>
    scf.yield %5 : tensor<8x12xf32>
  }
  return %r : tensor<8x12xf32>
}
