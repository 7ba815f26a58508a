// RUN: mlcflow opt %s --pipeline=cuda --target=cuda:sm_80 --until=outline | filecheck %s
// RUN: mlcflow opt %s --pipeline=cuda --target=cuda:sm_80 --until=ptx | filecheck %s --check-prefix=PTX

// The kernel computes its constants itself: only arrays are passed.
// CHECK: gpu.launch_func @exp_kernel_kernel::@exp_kernel_kernel {{.*}} args(%arg0 : memref<64xf32>, %arg1 : memref<64xf32>)
// The two never overlap, which lets loads move across stores.
// CHECK: gpu.func @exp_kernel_kernel(%{{.*}}: memref<64xf32> {llvm.align = 16 : i64, llvm.noalias},
// CHECK-SAME: memref<64xf32> {llvm.align = 16 : i64, llvm.noalias}) kernel
// CHECK: math.exp

// In the end the module holds PTX for the chip, in which nothing is left to link.
// PTX: gpu.launch_func @kernels::@exp_kernel_kernel
// PTX: gpu.binary @kernels
// PTX-SAME: chip = "sm_80"
// PTX-SAME: .target sm_80
// PTX-SAME: .visible .entry exp_kernel_kernel
// PTX-SAME: ex2.approx
func.func @main(%a: tensor<64xf32>) -> tensor<64xf32> {
  %e = tensor.empty() : tensor<64xf32>
  %r = linalg.exp ins(%a : tensor<64xf32>) outs(%e : tensor<64xf32>) -> tensor<64xf32>
  return %r : tensor<64xf32>
}
