// RUN: mlcflow opt %s --pipeline=cpu --target=cpu:sapphirerapids --until=schedule | filecheck %s
// RUN: mlcflow opt %s --pipeline=cpu --target=cpu:sapphirerapids --until=vectors | filecheck %s --check-prefix=VECTORS
// RUN: mlcflow opt %s --pipeline=cpu --target=cpu:haswell --until=schedule | filecheck %s --check-prefix=WITHOUT

// Both factors are read as bf16; what widened them is gone.
// CHECK: func.func private @{{.*}}(%{{.*}}: tensor<16x32xbf16>, {{.*}}) -> tensor<16x64xf32> attributes {mlcflow.kernel, mlcflow.rule = "dot"}
// CHECK: x86.avx512.dot
// CHECK-NOT: arith.extf

// Signed i8 by an instruction that multiplies unsigned by signed.
// VECTORS: llvm.call_intrinsic "llvm.x86.avx512.vpdpbusd.512"
// VECTORS: arith.subi
// VECTORS: arith.xori
// VECTORS: llvm.call_intrinsic "llvm.x86.avx512.vpdpbusd.512"

// Without the instructions, the products are of f32.
// WITHOUT: vector.contract {{.*}}xf32>
// WITHOUT-NOT: x86.
func.func @main(%a: tensor<16x32xbf16>, %b: tensor<32x64xbf16>, %p: tensor<16x32xi8>, %q: tensor<32x64xi8>) -> (tensor<16x64xf32>, tensor<16x64xi32>) {
  %zero = arith.constant 0.0 : f32
  %none = arith.constant 0 : i32
  %ea = tensor.empty() : tensor<16x32xf32>
  %eb = tensor.empty() : tensor<32x64xf32>
  %ec = tensor.empty() : tensor<16x64xf32>
  %er = tensor.empty() : tensor<16x64xi32>
  %wa = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]} ins(%a : tensor<16x32xbf16>) outs(%ea : tensor<16x32xf32>) {
  ^bb0(%x: bf16, %o: f32):
    %w = arith.extf %x : bf16 to f32
    linalg.yield %w : f32
  } -> tensor<16x32xf32>
  %wb = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]} ins(%b : tensor<32x64xbf16>) outs(%eb : tensor<32x64xf32>) {
  ^bb0(%x: bf16, %o: f32):
    %w = arith.extf %x : bf16 to f32
    linalg.yield %w : f32
  } -> tensor<32x64xf32>
  %fc = linalg.fill ins(%zero : f32) outs(%ec : tensor<16x64xf32>) -> tensor<16x64xf32>
  %c = linalg.matmul ins(%wa, %wb : tensor<16x32xf32>, tensor<32x64xf32>) outs(%fc : tensor<16x64xf32>) -> tensor<16x64xf32>
  %fr = linalg.fill ins(%none : i32) outs(%er : tensor<16x64xi32>) -> tensor<16x64xi32>
  %r = linalg.matmul ins(%p, %q : tensor<16x32xi8>, tensor<32x64xi8>) outs(%fr : tensor<16x64xi32>) -> tensor<16x64xi32>
  return %c, %r : tensor<16x64xf32>, tensor<16x64xi32>
}
