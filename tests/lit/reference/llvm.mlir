// RUN: mlcflow opt %s --pipeline=reference | filecheck %s

// Nothing but the LLVM dialect; the C interface through which the runtime calls; a failed
// check is reported and the function left.
// CHECK: mlcflow.assertions = ["index too large"]
// CHECK: llvm.func @mlcflow_assertion_failed(i64)
// CHECK: llvm.func internal @main(
// CHECK: llvm.cond_br %{{.*}}, ^[[GOOD:bb[0-9]+]], ^[[BAD:bb[0-9]+]]
// CHECK: ^[[GOOD]]:
// CHECK: llvm.load {{.*}} -> f32
// CHECK: ^[[BAD]]:
// CHECK: llvm.call @mlcflow_assertion_failed
// CHECK-NEXT: llvm.return
// CHECK: llvm.func @_mlir_ciface_main(
// CHECK-NOT: {{(func|arith|memref|cf|scf|linalg|tensor)}}.
func.func @main(%x: tensor<4xf32>, %i: tensor<index>) -> tensor<f32> {
  %four = arith.constant 4 : index
  %index = tensor.extract %i[] : tensor<index>
  %inside = arith.cmpi ult, %index, %four : index
  cf.assert %inside, "index too large"
  %value = tensor.extract %x[%index] : tensor<4xf32>
  %y = tensor.from_elements %value : tensor<f32>
  return %y : tensor<f32>
}
