// RUN: mlcflow opt %s --pipeline=cuda --target=cuda:sm_90 --until=launch | filecheck %s

// A warp has 16 queries; scores, weights and sums are in its registers. Two tiles of K and V are in
// shared memory, and the threads wait once for each part of the keys.
// CHECK-LABEL: func.func private @attention
// CHECK-SAME: mlcflow.rule = "attention"
// CHECK: gpu.launch {{.*}} threads({{.*}}) in (%{{.*}} = %c32, %{{.*}} = %c4, %{{.*}} = %c1)
// CHECK-SAME: workgroup(%[[K:.*]] : memref<2x64x64xbf16, #gpu.address_space<workgroup>>, %[[V:.*]] : memref<2x64x64xbf16, #gpu.address_space<workgroup>>)
// CHECK: scf.for {{.*}} iter_args
// CHECK: nvvm.cp.async.wait.group 0
// CHECK-NEXT: gpu.barrier
// CHECK-COUNT-2: nvgpu.device_async_copy
// CHECK-COUNT-32: nvgpu.mma.sync
// CHECK-COUNT-8: gpu.shuffle
// CHECK-COUNT-32: nvgpu.mma.sync
// CHECK-NOT: gpu.barrier
#ij = affine_map<(i, j) -> (i, j)>
#i = affine_map<(i, j) -> (i)>
func.func @main(%q: tensor<256x64xbf16>, %k: tensor<512x64xbf16>,
                %v: tensor<512x64xbf16>, %mask: tensor<256x512xf32>) -> tensor<256x64xf32> {
  %zero = arith.constant 0.0 : f32
  %lowest = arith.constant 0xFF800000 : f32
  %s = tensor.empty() : tensor<256x512xf32>
  %r = tensor.empty() : tensor<256xf32>
  %o = tensor.empty() : tensor<256x64xf32>
  %s0 = linalg.fill ins(%zero : f32) outs(%s : tensor<256x512xf32>) -> tensor<256x512xf32>
  %scores = linalg.generic {indexing_maps = [affine_map<(i, j, d) -> (i, d)>, affine_map<(i, j, d) -> (j, d)>, affine_map<(i, j, d) -> (i, j)>], iterator_types = ["parallel", "parallel", "reduction"]} ins(%q, %k : tensor<256x64xbf16>, tensor<512x64xbf16>) outs(%s0 : tensor<256x512xf32>) {
  ^bb0(%a: bf16, %b: bf16, %c: f32):
    %x = arith.extf %a : bf16 to f32
    %y = arith.extf %b : bf16 to f32
    %p = arith.mulf %x, %y : f32
    %t = arith.addf %c, %p : f32
    linalg.yield %t : f32
  } -> tensor<256x512xf32>
  %masked = linalg.generic {indexing_maps = [#ij, #ij, #ij], iterator_types = ["parallel", "parallel"]} ins(%scores, %mask : tensor<256x512xf32>, tensor<256x512xf32>) outs(%s : tensor<256x512xf32>) {
  ^bb0(%a: f32, %b: f32, %c: f32):
    %t = arith.addf %a, %b : f32
    linalg.yield %t : f32
  } -> tensor<256x512xf32>
  %r0 = linalg.fill ins(%lowest : f32) outs(%r : tensor<256xf32>) -> tensor<256xf32>
  %largest = linalg.generic {indexing_maps = [#ij, #i], iterator_types = ["parallel", "reduction"]} ins(%masked : tensor<256x512xf32>) outs(%r0 : tensor<256xf32>) {
  ^bb0(%a: f32, %c: f32):
    %t = arith.maximumf %a, %c : f32
    linalg.yield %t : f32
  } -> tensor<256xf32>
  %powers = linalg.generic {indexing_maps = [#ij, #i, #ij], iterator_types = ["parallel", "parallel"]} ins(%masked, %largest : tensor<256x512xf32>, tensor<256xf32>) outs(%s : tensor<256x512xf32>) {
  ^bb0(%a: f32, %b: f32, %c: f32):
    %t = arith.subf %a, %b : f32
    %e = math.exp %t : f32
    linalg.yield %e : f32
  } -> tensor<256x512xf32>
  %r1 = linalg.fill ins(%zero : f32) outs(%r : tensor<256xf32>) -> tensor<256xf32>
  %sums = linalg.generic {indexing_maps = [#ij, #i], iterator_types = ["parallel", "reduction"]} ins(%powers : tensor<256x512xf32>) outs(%r1 : tensor<256xf32>) {
  ^bb0(%a: f32, %c: f32):
    %t = arith.addf %a, %c : f32
    linalg.yield %t : f32
  } -> tensor<256xf32>
  %weights = linalg.generic {indexing_maps = [#ij, #i, #ij], iterator_types = ["parallel", "parallel"]} ins(%powers, %sums : tensor<256x512xf32>, tensor<256xf32>) outs(%s : tensor<256x512xf32>) {
  ^bb0(%a: f32, %b: f32, %c: f32):
    %t = arith.divf %a, %b : f32
    linalg.yield %t : f32
  } -> tensor<256x512xf32>
  %h = tensor.empty() : tensor<256x512xbf16>
  %narrow = linalg.generic {indexing_maps = [#ij, #ij], iterator_types = ["parallel", "parallel"]} ins(%weights : tensor<256x512xf32>) outs(%h : tensor<256x512xbf16>) {
  ^bb0(%a: f32, %c: bf16):
    %t = arith.truncf %a : f32 to bf16
    linalg.yield %t : bf16
  } -> tensor<256x512xbf16>
  %o0 = linalg.fill ins(%zero : f32) outs(%o : tensor<256x64xf32>) -> tensor<256x64xf32>
  %product = linalg.matmul ins(%narrow, %v : tensor<256x512xbf16>, tensor<512x64xbf16>) outs(%o0 : tensor<256x64xf32>) -> tensor<256x64xf32>
  return %product : tensor<256x64xf32>
}
