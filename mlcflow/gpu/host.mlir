// What host code calls to work with a device. The functions of the driver are reached through a
// table that the runtime fills, so that a module needs no library to be loaded:
//
//   0 cuLaunchKernel   1 cuMemcpyDtoHAsync   2 cuStreamSynchronize   3 cuMemAlloc   4 cuMemFree
//   5 cuTensorMapEncodeTiled, if there are tensor maps   6 the stream   7 the first error
//   8 the kernel it is of; -1: memory, -2: a tensor map  9... the kernels
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
    %error = llvm.getelementptr %table[7] : (!llvm.ptr) -> !llvm.ptr, i64
    %before = llvm.load %error : !llvm.ptr -> i64
    %first = llvm.icmp "eq" %before, %none : i64
    llvm.cond_br %first, ^note, ^end
  ^note:
    %wide = llvm.sext %code : i32 to i64
    llvm.store %wide, %error : i64, !llvm.ptr
    %of = llvm.getelementptr %table[8] : (!llvm.ptr) -> !llvm.ptr, i64
    llvm.store %kernel, %of : i64, !llvm.ptr
    llvm.br ^end
  ^end:
    llvm.return
  }

  // %arguments is the address of an array of addresses: those of the arguments of the kernel. It ends
  // in a null, by which a recorder knows how many there are. A block gets %shared bytes of memory
  // beside what its kernel declares.
  llvm.func @mlcflow_gpu_launch(%kernel: i64, %gx: i64, %gy: i64, %gz: i64, %bx: i64, %by: i64,
                                %bz: i64, %shared: i64, %arguments: i64) {
    %zero = llvm.mlir.constant(0 : i64) : i64
    %six = llvm.mlir.constant(6 : i64) : i64
    %nine = llvm.mlir.constant(9 : i64) : i64
    %extra = llvm.mlir.zero : !llvm.ptr
    %seven = llvm.mlir.constant(7 : i64) : i64
    %error = llvm.call @mlcflow_gpu_word(%seven) : (i64) -> !llvm.ptr
    %failed = llvm.icmp "ne" %error, %extra : !llvm.ptr
    llvm.cond_br %failed, ^end, ^launch
  ^launch:
    %addresses = llvm.inttoptr %arguments : i64 to !llvm.ptr
    %cuLaunchKernel = llvm.call @mlcflow_gpu_word(%zero) : (i64) -> !llvm.ptr
    %stream = llvm.call @mlcflow_gpu_word(%six) : (i64) -> !llvm.ptr
    %number = llvm.add %kernel, %nine : i64
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
    llvm.br ^end
  ^end:
    llvm.return
  }

  // Writes a tensor map to the 128 bytes at %map. The arguments are those of the driver: %dims,
  // %strides, %box and %steps are addresses of numbers, the innermost dimension first.
  llvm.func @mlcflow_gpu_encode(%map: i64, %kind: i64, %rank: i64, %array: i64, %dims: i64,
                                %strides: i64, %box: i64, %steps: i64, %interleave: i64,
                                %swizzle: i64, %promotion: i64, %fill: i64) {
    %five = llvm.mlir.constant(5 : i64) : i64
    %of = llvm.mlir.constant(-2 : i64) : i64
    %cuTensorMapEncodeTiled = llvm.call @mlcflow_gpu_word(%five) : (i64) -> !llvm.ptr
    %kind32 = llvm.trunc %kind : i64 to i32
    %rank32 = llvm.trunc %rank : i64 to i32
    %interleave32 = llvm.trunc %interleave : i64 to i32
    %swizzle32 = llvm.trunc %swizzle : i64 to i32
    %promotion32 = llvm.trunc %promotion : i64 to i32
    %fill32 = llvm.trunc %fill : i64 to i32
    %code = llvm.call %cuTensorMapEncodeTiled(%map, %kind32, %rank32, %array, %dims, %strides,
        %box, %steps, %interleave32, %swizzle32, %promotion32, %fill32)
        : !llvm.ptr, (i64, i32, i32, i64, i64, i64, i64, i64, i32, i32, i32, i32) -> i32
    llvm.call @mlcflow_gpu_check(%code, %of) : (i32, i64) -> ()
    llvm.return
  }

  // Copies %bytes from the device, when all that was launched before is done.
  llvm.func @mlcflow_gpu_read(%to: i64, %from: i64, %bytes: i64) {
    %one = llvm.mlir.constant(1 : i64) : i64
    %two = llvm.mlir.constant(2 : i64) : i64
    %six = llvm.mlir.constant(6 : i64) : i64
    %none = llvm.mlir.constant(-1 : i64) : i64
    %cuMemcpyDtoHAsync = llvm.call @mlcflow_gpu_word(%one) : (i64) -> !llvm.ptr
    %cuStreamSynchronize = llvm.call @mlcflow_gpu_word(%two) : (i64) -> !llvm.ptr
    %stream = llvm.call @mlcflow_gpu_word(%six) : (i64) -> !llvm.ptr
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
