// RUN: mlcflow opt %s --pipeline=cpu | filecheck %s

// A kernel takes a pointer for each array, and is called without descriptors.
// CHECK-LABEL: llvm.func internal @main(
// CHECK: llvm.call @[[KERNEL:.*]](%{{.*}}, %{{.*}}) : (!llvm.ptr, !llvm.ptr) -> ()
// CHECK: llvm.func @[[KERNEL]](%{{.*}}: !llvm.ptr, %{{.*}}: !llvm.ptr)
func.func @main(%x: tensor<64x40xf32>) -> tensor<64x40xf32> {
  %e = tensor.empty() : tensor<64x40xf32>
  %r = linalg.exp ins(%x : tensor<64x40xf32>) outs(%e : tensor<64x40xf32>) -> tensor<64x40xf32>
  return %r : tensor<64x40xf32>
}
