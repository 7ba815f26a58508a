// RUN: mlcflow opt %s --pipeline=cuda --target=cuda:sm_90 --start=launch --until=launch | filecheck %s

// What a block makes for all its threads is shared memory; the threads wait before they read what
// others wrote, and before they write again what others may still read.
// CHECK-LABEL: func.func private @reverse
// CHECK: gpu.launch blocks({{.*}}) in (%{{.*}} = %c8, {{.*}}) threads({{.*}}) in (%{{.*}} = %c32,
// CHECK-SAME: workgroup(%[[TILE:.*]] : memref<32xf32, #gpu.address_space<workgroup>>)
// CHECK: scf.for
// CHECK: memref.store %{{.*}}, %[[TILE]]
// CHECK: gpu.barrier
// CHECK: memref.load %[[TILE]]
// CHECK: gpu.barrier
// CHECK-NOT: gpu.barrier
func.func @main(%a: memref<8x4x32xf32> {mlcflow.input = "a"}, %b: memref<8x4x32xf32> {mlcflow.output = "b"}) {
  call @reverse(%a, %b) : (memref<8x4x32xf32>, memref<8x4x32xf32>) -> ()
  return
}
func.func private @reverse(%a: memref<8x4x32xf32>, %b: memref<8x4x32xf32>) attributes {mlcflow.kernel} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c4 = arith.constant 4 : index
  %c8 = arith.constant 8 : index
  %c31 = arith.constant 31 : index
  %c32 = arith.constant 32 : index
  scf.for %i = %c0 to %c8 step %c1 {
    %tile = memref.alloc() : memref<32xf32>
    scf.for %j = %c0 to %c4 step %c1 {
      scf.for %k = %c0 to %c32 step %c1 {
        %x = memref.load %a[%i, %j, %k] : memref<8x4x32xf32>
        memref.store %x, %tile[%k] : memref<32xf32>
      } {mlcflow.bind = "thread.x"}
      scf.for %k = %c0 to %c32 step %c1 {
        %back = arith.subi %c31, %k : index
        %x = memref.load %tile[%back] : memref<32xf32>
        memref.store %x, %b[%i, %j, %k] : memref<8x4x32xf32>
      } {mlcflow.bind = "thread.x"}
    }
  } {mlcflow.bind = "block.x"}
  return
}
