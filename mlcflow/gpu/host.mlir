// What host code calls to work with a device. The functions of the driver are reached through a
// table that the runtime fills, so that a module needs no library to be loaded:
//
//   0 cuLaunchKernel   1 cuMemcpyDtoHAsync   2 cuStreamSynchronize   3 cuMemAlloc   4 cuMemFree
//   5 the stream       6 the first error     7 the kernel it is of   8... the kernels
module {
  llvm.mlir.global internal @mlcflow_gpu_table() : !llvm.ptr {
    %none = llvm.mlir.zero : !llvm.ptr
    llvm.return %none : !llvm.ptr
  }

  llvm.func @_mlir_ciface_mlcflow_gpu_bind(%table: !llvm.ptr) {
    %place = llvm.mlir.addressof @mlcflow_gpu_table : !llvm.ptr
    llvm.store %table, %place : !llvm.ptr, !llvm.ptr
    llvm.return
  }

  llvm.func internal @mlcflow_gpu_word(%number: i64) -> !llvm.ptr {
    %place = llvm.mlir.addressof @mlcflow_gpu_table : !llvm.ptr
    %table = llvm.load %place : !llvm.ptr -> !llvm.ptr
    %at = llvm.getelementptr %table[%number] : (!llvm.ptr, i64) -> !llvm.ptr, !llvm.ptr
    %word = llvm.load %at : !llvm.ptr -> !llvm.ptr
    llvm.return %word : !llvm.ptr
  }

  // Keeps the first error only: those that follow are consequences.
  llvm.func internal @mlcflow_gpu_check(%code: i32, %kernel: i64) {
    %good = llvm.mlir.constant(0 : i32) : i32
    %none = llvm.mlir.constant(0 : i64) : i64
    %failed = llvm.icmp "ne" %code, %good : i32
    llvm.cond_br %failed, ^failed, ^end
  ^failed:
    %place = llvm.mlir.addressof @mlcflow_gpu_table : !llvm.ptr
    %table = llvm.load %place : !llvm.ptr -> !llvm.ptr
    %error = llvm.getelementptr %table[6] : (!llvm.ptr) -> !llvm.ptr, i64
    %before = llvm.load %error : !llvm.ptr -> i64
    %first = llvm.icmp "eq" %before, %none : i64
    llvm.cond_br %first, ^note, ^end
  ^note:
    %wide = llvm.sext %code : i32 to i64
    llvm.store %wide, %error : i64, !llvm.ptr
    %of = llvm.getelementptr %table[7] : (!llvm.ptr) -> !llvm.ptr, i64
    llvm.store %kernel, %of : i64, !llvm.ptr
    llvm.br ^end
  ^end:
    llvm.return
  }

  // The arguments of the kernel are %count words of 8 bytes at %words; the driver wants an array
  // of their addresses. It ends in a null, by which a recorder knows how many there are. A block
  // gets %shared bytes of memory beside what its kernel declares.
  llvm.func @mlcflow_gpu_launch(%kernel: i64, %gx: i64, %gy: i64, %gz: i64, %bx: i64, %by: i64,
                                %bz: i64, %shared: i64, %words: i64, %count: i64) {
    %zero = llvm.mlir.constant(0 : i64) : i64
    %one = llvm.mlir.constant(1 : i64) : i64
    %five = llvm.mlir.constant(5 : i64) : i64
    %eight = llvm.mlir.constant(8 : i64) : i64
    %extra = llvm.mlir.zero : !llvm.ptr
    %base = llvm.inttoptr %words : i64 to !llvm.ptr
    %slots = llvm.add %count, %one : i64
    %addresses = llvm.alloca %slots x !llvm.ptr : (i64) -> !llvm.ptr
    %last = llvm.getelementptr %addresses[%count] : (!llvm.ptr, i64) -> !llvm.ptr, !llvm.ptr
    llvm.store %extra, %last : !llvm.ptr, !llvm.ptr
    llvm.br ^test(%zero : i64)
  ^test(%n: i64):
    %more = llvm.icmp "slt" %n, %count : i64
    llvm.cond_br %more, ^next, ^launch
  ^next:
    %word = llvm.getelementptr %base[%n] : (!llvm.ptr, i64) -> !llvm.ptr, i64
    %slot = llvm.getelementptr %addresses[%n] : (!llvm.ptr, i64) -> !llvm.ptr, !llvm.ptr
    llvm.store %word, %slot : !llvm.ptr, !llvm.ptr
    %n1 = llvm.add %n, %one : i64
    llvm.br ^test(%n1 : i64)
  ^launch:
    %cuLaunchKernel = llvm.call @mlcflow_gpu_word(%zero) : (i64) -> !llvm.ptr
    %stream = llvm.call @mlcflow_gpu_word(%five) : (i64) -> !llvm.ptr
    %number = llvm.add %kernel, %eight : i64
    %function = llvm.call @mlcflow_gpu_word(%number) : (i64) -> !llvm.ptr
    %gx32 = llvm.trunc %gx : i64 to i32
    %gy32 = llvm.trunc %gy : i64 to i32
    %gz32 = llvm.trunc %gz : i64 to i32
    %bx32 = llvm.trunc %bx : i64 to i32
    %by32 = llvm.trunc %by : i64 to i32
    %bz32 = llvm.trunc %bz : i64 to i32
    %shared32 = llvm.trunc %shared : i64 to i32
    %code = llvm.call %cuLaunchKernel(%function, %gx32, %gy32, %gz32, %bx32, %by32, %bz32,
        %shared32, %stream, %addresses, %extra)
        : !llvm.ptr, (!llvm.ptr, i32, i32, i32, i32, i32, i32, i32, !llvm.ptr, !llvm.ptr,
                      !llvm.ptr) -> i32
    llvm.call @mlcflow_gpu_check(%code, %kernel) : (i32, i64) -> ()
    llvm.return
  }

  // Copies %bytes from the device, when all that was launched before is done.
  llvm.func @mlcflow_gpu_read(%to: i64, %from: i64, %bytes: i64) {
    %one = llvm.mlir.constant(1 : i64) : i64
    %two = llvm.mlir.constant(2 : i64) : i64
    %five = llvm.mlir.constant(5 : i64) : i64
    %none = llvm.mlir.constant(-1 : i64) : i64
    %cuMemcpyDtoHAsync = llvm.call @mlcflow_gpu_word(%one) : (i64) -> !llvm.ptr
    %cuStreamSynchronize = llvm.call @mlcflow_gpu_word(%two) : (i64) -> !llvm.ptr
    %stream = llvm.call @mlcflow_gpu_word(%five) : (i64) -> !llvm.ptr
    %host = llvm.inttoptr %to : i64 to !llvm.ptr
    %copied = llvm.call %cuMemcpyDtoHAsync(%host, %from, %bytes, %stream)
        : !llvm.ptr, (!llvm.ptr, i64, i64, !llvm.ptr) -> i32
    llvm.call @mlcflow_gpu_check(%copied, %none) : (i32, i64) -> ()
    %waited = llvm.call %cuStreamSynchronize(%stream) : !llvm.ptr, (!llvm.ptr) -> i32
    llvm.call @mlcflow_gpu_check(%waited, %none) : (i32, i64) -> ()
    llvm.return
  }

  // Memory whose size only the program knows. The driver allots none of size 0.
  llvm.func @_mlir_memref_to_llvm_alloc(%bytes: i64) -> !llvm.ptr {
    %one = llvm.mlir.constant(1 : i64) : i64
    %three = llvm.mlir.constant(3 : i64) : i64
    %none = llvm.mlir.constant(-1 : i64) : i64
    %nothing = llvm.mlir.zero : !llvm.ptr
    %cuMemAlloc = llvm.call @mlcflow_gpu_word(%three) : (i64) -> !llvm.ptr
    %place = llvm.alloca %one x !llvm.ptr : (i64) -> !llvm.ptr
    llvm.store %nothing, %place : !llvm.ptr, !llvm.ptr
    %size = llvm.intr.umax(%bytes, %one) : (i64, i64) -> i64
    %code = llvm.call %cuMemAlloc(%place, %size) : !llvm.ptr, (!llvm.ptr, i64) -> i32
    llvm.call @mlcflow_gpu_check(%code, %none) : (i32, i64) -> ()
    %memory = llvm.load %place : !llvm.ptr -> !llvm.ptr
    llvm.return %memory : !llvm.ptr
  }

  llvm.func @_mlir_memref_to_llvm_free(%memory: !llvm.ptr) {
    %four = llvm.mlir.constant(4 : i64) : i64
    %none = llvm.mlir.constant(-1 : i64) : i64
    %cuMemFree = llvm.call @mlcflow_gpu_word(%four) : (i64) -> !llvm.ptr
    %code = llvm.call %cuMemFree(%memory) : !llvm.ptr, (!llvm.ptr) -> i32
    llvm.call @mlcflow_gpu_check(%code, %none) : (i32, i64) -> ()
    llvm.return
  }
}
