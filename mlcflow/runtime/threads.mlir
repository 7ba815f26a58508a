// The threads that run the parallel loops of every executable of a process.
//
//   mlcflow_fork(threads, task, context)   run task(zero, zero, context) in up to `threads`
//                                          threads, the calling one among them; returns when
//                                          all have left it
//   mlcflow_reset()                        forget the workers: the process is a forked child
//   mlcflow_fork_address()                 where mlcflow_fork lies
//
// A task takes its work from a counter until nothing is left, so it does not matter how many
// threads come, and nobody waits for one that the machine has no processor for: the caller
// begins at once, and when it is through, closes the gate behind those that entered.
//
// The gate is one word: job << 32 | free places << 16 | workers inside. While a task of another
// caller runs, a task runs in its caller alone.

// Written while nobody is inside.
llvm.mlir.global internal @task(#llvm.zero) {alignment = 64 : i64} : !llvm.ptr
llvm.mlir.global internal @context(#llvm.zero) : !llvm.ptr
// How the caller rounds, and whether it flushes denormal numbers to zero.
llvm.mlir.global internal @mode(0 : i32) : i32
llvm.mlir.global internal @zero(0 : i32) {alignment = 64 : i64} : i32
// Each hot word on a cache line of its own.
llvm.mlir.global internal @gate(0 : i64) {alignment = 64 : i64} : i64
llvm.mlir.global internal @busy(0 : i32) {alignment = 64 : i64} : i32
llvm.mlir.global internal @sleepers(0 : i32) {alignment = 64 : i64} : i32
llvm.mlir.global internal @workers(0 : i32) : i32
// Larger than a pthread_mutex_t and a pthread_cond_t anywhere.
llvm.mlir.global internal @mutex(dense<0> : tensor<16xi64>) {alignment = 64 : i64} : !llvm.array<16 x i64>
llvm.mlir.global internal @wake(dense<0> : tensor<16xi64>) {alignment = 64 : i64} : !llvm.array<16 x i64>

llvm.func @pthread_create(!llvm.ptr, !llvm.ptr, !llvm.ptr, !llvm.ptr) -> i32
llvm.func @pthread_detach(i64) -> i32
llvm.func @pthread_mutex_init(!llvm.ptr, !llvm.ptr) -> i32
llvm.func @pthread_mutex_lock(!llvm.ptr) -> i32
llvm.func @pthread_mutex_unlock(!llvm.ptr) -> i32
llvm.func @pthread_cond_init(!llvm.ptr, !llvm.ptr) -> i32
llvm.func @pthread_cond_wait(!llvm.ptr, !llvm.ptr) -> i32
llvm.func @pthread_cond_signal(!llvm.ptr) -> i32
llvm.func @sched_yield() -> i32

llvm.func @run() {
  %task = llvm.mlir.addressof @task : !llvm.ptr
  %context = llvm.mlir.addressof @context : !llvm.ptr
  %zero = llvm.mlir.addressof @zero : !llvm.ptr
  %function = llvm.load %task : !llvm.ptr -> !llvm.ptr
  %argument = llvm.load %context : !llvm.ptr -> !llvm.ptr
  llvm.call %function(%zero, %zero, %argument) : !llvm.ptr, (!llvm.ptr, !llvm.ptr, !llvm.ptr) -> ()
  llvm.return
}

// Go inside if a job after number `seen` has a place. Gives the number of the job, else `seen`.
llvm.func @enter(%seen: i64) -> i64 {
  %gate = llvm.mlir.addressof @gate : !llvm.ptr
  %job_bits = arith.constant 32 : i64
  %place_bits = arith.constant 16 : i64
  %mask = arith.constant 0xFFFF : i64
  // One place less, one inside more.
  %taken = arith.constant 0xFFFF : i64
  %none = arith.constant 0 : i64
  %first = llvm.load %gate atomic seq_cst {alignment = 8 : i64} : !llvm.ptr -> i64
  %entered, %last = scf.while (%word = %first) : (i64) -> (i1, i64) {
    %job = arith.shrui %word, %job_bits : i64
    %shifted = arith.shrui %word, %place_bits : i64
    %places = arith.andi %shifted, %mask : i64
    %is_new = arith.cmpi ne, %job, %seen : i64
    %has_place = arith.cmpi ne, %places, %none : i64
    %may = arith.andi %is_new, %has_place : i1
    %again, %done, %now = scf.if %may -> (i1, i1, i64) {
      %next = arith.subi %word, %taken : i64
      %pair = llvm.cmpxchg %gate, %word, %next seq_cst monotonic {alignment = 8 : i64} : !llvm.ptr, i64
      %found = llvm.extractvalue %pair[0] : !llvm.struct<(i64, i1)>
      %worked = llvm.extractvalue %pair[1] : !llvm.struct<(i64, i1)>
      %true = arith.constant true
      %failed = arith.xori %worked, %true : i1
      scf.yield %failed, %worked, %found : i1, i1, i64
    } else {
      %false = arith.constant false
      scf.yield %false, %false, %word : i1, i1, i64
    }
    %out = arith.select %again, %now, %word : i64
    scf.condition(%again) %done, %out : i1, i64
  } do {
  ^again(%unused: i1, %word: i64):
    scf.yield %word : i64
  }
  %job = arith.shrui %last, %job_bits : i64
  %result = arith.select %entered, %job, %seen : i64
  llvm.return %result : i64
}

llvm.func @leave() {
  %gate = llvm.mlir.addressof @gate : !llvm.ptr
  %one = arith.constant 1 : i64
  %old = llvm.atomicrmw sub %gate, %one release {alignment = 8 : i64} : !llvm.ptr, i64
  llvm.return
}

// Look for a job for some microseconds. Gives its number, else `seen`.
llvm.func @spin(%seen: i64) -> i64 {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %rounds = arith.constant 2000 : index
  %result, %count = scf.while (%round = %c0) : (index) -> (i64, index) {
    %job = llvm.call @enter(%seen) : (i64) -> i64
    %is_none = arith.cmpi eq, %job, %seen : i64
    %is_early = arith.cmpi ult, %round, %rounds : index
    %again = arith.andi %is_none, %is_early : i1
    scf.condition(%again) %job, %round : i64, index
  } do {
  ^again(%job: i64, %round: index):
    llvm.call_intrinsic "llvm.x86.sse2.pause"() : () -> ()
    %next = arith.addi %round, %c1 : index
    scf.yield %next : index
  }
  llvm.return %result : i64
}

// Sleep until a job has a place. Gives its number; the thread is inside.
llvm.func @sleep(%seen: i64) -> i64 {
  %mutex = llvm.mlir.addressof @mutex : !llvm.ptr
  %wake = llvm.mlir.addressof @wake : !llvm.ptr
  %sleepers = llvm.mlir.addressof @sleepers : !llvm.ptr
  %one = arith.constant 1 : i32
  %s0 = llvm.call @pthread_mutex_lock(%mutex) : (!llvm.ptr) -> i32
  // Before it looks again: a caller that sees no sleeper has opened the gate already.
  %s1 = llvm.atomicrmw add %sleepers, %one seq_cst {alignment = 4 : i64} : !llvm.ptr, i32
  %result = scf.while : () -> i64 {
    %job = llvm.call @enter(%seen) : (i64) -> i64
    %is_none = arith.cmpi eq, %job, %seen : i64
    scf.condition(%is_none) %job : i64
  } do {
  ^again(%job: i64):
    %s2 = llvm.call @pthread_cond_wait(%wake, %mutex) : (!llvm.ptr, !llvm.ptr) -> i32
    scf.yield
  }
  %s3 = llvm.atomicrmw sub %sleepers, %one seq_cst {alignment = 4 : i64} : !llvm.ptr, i32
  %s4 = llvm.call @pthread_mutex_unlock(%mutex) : (!llvm.ptr) -> i32
  llvm.return %result : i64
}

// What a worker does, for ever. `first` is the number of the last job before it came.
llvm.func @work(%first: !llvm.ptr) -> !llvm.ptr {
  %start = llvm.ptrtoint %first : !llvm.ptr to i64
  %true = arith.constant true
  %end = scf.while (%seen = %start) : (i64) -> i64 {
    scf.condition(%true) %seen : i64
  } do {
  ^again(%seen: i64):
    %found = llvm.call @spin(%seen) : (i64) -> i64
    %is_none = arith.cmpi eq, %found, %seen : i64
    %job = scf.if %is_none -> i64 {
      %woken = llvm.call @sleep(%seen) : (i64) -> i64
      scf.yield %woken : i64
    } else {
      scf.yield %found : i64
    }
    %mode = llvm.mlir.addressof @mode : !llvm.ptr
    llvm.call_intrinsic "llvm.x86.sse.ldmxcsr"(%mode) : (!llvm.ptr) -> ()
    llvm.call @run() : () -> ()
    llvm.call @leave() : () -> ()
    scf.yield %job : i64
  }
  llvm.return %first : !llvm.ptr
}

// Have `wanted` workers, or as many as the system gives. For the thread that made `busy` 1.
llvm.func @hire(%wanted: i32, %job: i64) {
  %workers = llvm.mlir.addressof @workers : !llvm.ptr
  %work = llvm.mlir.addressof @work : !llvm.ptr
  %null = llvm.mlir.zero : !llvm.ptr
  %zero = arith.constant 0 : i32
  %one = arith.constant 1 : i32
  %one_word = arith.constant 1 : i64
  %place = llvm.alloca %one_word x i64 : (i64) -> !llvm.ptr
  %argument = llvm.inttoptr %job : i64 to !llvm.ptr
  %ignored = scf.while (%status = %zero) : (i32) -> i32 {
    %count = llvm.load %workers : !llvm.ptr -> i32
    %is_few = arith.cmpi ult, %count, %wanted : i32
    %is_well = arith.cmpi eq, %status, %zero : i32
    %again = arith.andi %is_few, %is_well : i1
    scf.condition(%again) %count : i32
  } do {
  ^again(%count: i32):
    %failed = llvm.call @pthread_create(%place, %null, %work, %argument)
        : (!llvm.ptr, !llvm.ptr, !llvm.ptr, !llvm.ptr) -> i32
    %is_well = arith.cmpi eq, %failed, %zero : i32
    scf.if %is_well {
      %thread = llvm.load %place : !llvm.ptr -> i64
      %s0 = llvm.call @pthread_detach(%thread) : (i64) -> i32
      %more = arith.addi %count, %one : i32
      llvm.store %more, %workers : i32, !llvm.ptr
    }
    scf.yield %failed : i32
  }
  llvm.return
}

// Wake up to `places` workers that sleep.
llvm.func @call_workers(%places: i32) {
  %sleepers = llvm.mlir.addressof @sleepers : !llvm.ptr
  %mutex = llvm.mlir.addressof @mutex : !llvm.ptr
  %wake = llvm.mlir.addressof @wake : !llvm.ptr
  %c0 = arith.constant 0 : i32
  %c1 = arith.constant 1 : i32
  %asleep = llvm.load %sleepers atomic seq_cst {alignment = 4 : i64} : !llvm.ptr -> i32
  %number = arith.minui %asleep, %places : i32
  %any = arith.cmpi ne, %number, %c0 : i32
  scf.if %any {
    %s0 = llvm.call @pthread_mutex_lock(%mutex) : (!llvm.ptr) -> i32
    scf.for %i = %c0 to %number step %c1 : i32 {
      %s1 = llvm.call @pthread_cond_signal(%wake) : (!llvm.ptr) -> i32
    }
    %s2 = llvm.call @pthread_mutex_unlock(%mutex) : (!llvm.ptr) -> i32
  }
  llvm.return
}

// Let nobody in any more, and wait until all have left.
llvm.func @join() {
  %gate = llvm.mlir.addressof @gate : !llvm.ptr
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %rounds = arith.constant 2000 : index
  %none = arith.constant 0 : i64
  %places = arith.constant 0xFFFF0000 : i64
  %inside = arith.constant 0xFFFF : i64
  %all = arith.constant -1 : i64
  %others = arith.xori %places, %all : i64
  %before = llvm.atomicrmw _and %gate, %others seq_cst {alignment = 8 : i64} : !llvm.ptr, i64
  %end = scf.while (%round = %c0) : (index) -> index {
    %word = llvm.load %gate atomic acquire {alignment = 8 : i64} : !llvm.ptr -> i64
    %left = arith.andi %word, %inside : i64
    %again = arith.cmpi ne, %left, %none : i64
    scf.condition(%again) %round : index
  } do {
  ^again(%round: index):
    %is_early = arith.cmpi ult, %round, %rounds : index
    scf.if %is_early {
      llvm.call_intrinsic "llvm.x86.sse2.pause"() : () -> ()
    } else {
      // The last one waits for a processor: it may have this one.
      %s0 = llvm.call @sched_yield() : () -> i32
    }
    %next = arith.addi %round, %c1 : index
    scf.yield %next : index
  }
  llvm.return
}

llvm.func @fork(%places: i32, %function: !llvm.ptr, %argument: !llvm.ptr) {
  %gate = llvm.mlir.addressof @gate : !llvm.ptr
  %task = llvm.mlir.addressof @task : !llvm.ptr
  %context = llvm.mlir.addressof @context : !llvm.ptr
  %job_bits = arith.constant 32 : i64
  %place_bits = arith.constant 16 : i64
  %one = arith.constant 1 : i64
  llvm.store %function, %task : !llvm.ptr, !llvm.ptr
  llvm.store %argument, %context : !llvm.ptr, !llvm.ptr
  %mode = llvm.mlir.addressof @mode : !llvm.ptr
  llvm.call_intrinsic "llvm.x86.sse.stmxcsr"(%mode) : (!llvm.ptr) -> ()
  // Nobody is inside, and only this thread opens.
  %word = llvm.load %gate atomic monotonic {alignment = 8 : i64} : !llvm.ptr -> i64
  %last = arith.shrui %word, %job_bits : i64
  llvm.call @hire(%places, %last) : (i32, i64) -> ()
  %job = arith.addi %last, %one : i64
  %high = arith.shli %job, %job_bits : i64
  %wide = arith.extui %places : i32 to i64
  %low = arith.shli %wide, %place_bits : i64
  %open = arith.ori %high, %low : i64
  llvm.store %open, %gate atomic seq_cst {alignment = 8 : i64} : i64, !llvm.ptr
  llvm.call @call_workers(%places) : (i32) -> ()
  llvm.call @run() : () -> ()
  llvm.call @join() : () -> ()
  llvm.return
}

llvm.func @mlcflow_fork(%threads: i32, %function: !llvm.ptr, %argument: !llvm.ptr) {
  %zero = llvm.mlir.addressof @zero : !llvm.ptr
  %busy = llvm.mlir.addressof @busy : !llvm.ptr
  %c0 = arith.constant 0 : i32
  %c1 = arith.constant 1 : i32
  %several = arith.cmpi sgt, %threads, %c1 : i32
  %free = scf.if %several -> i1 {
    %old = llvm.atomicrmw xchg %busy, %c1 acquire {alignment = 4 : i64} : !llvm.ptr, i32
    %was_free = arith.cmpi eq, %old, %c0 : i32
    scf.yield %was_free : i1
  } else {
    %false = arith.constant false
    scf.yield %false : i1
  }
  scf.if %free {
    %places = arith.subi %threads, %c1 : i32
    llvm.call @fork(%places, %function, %argument) : (i32, !llvm.ptr, !llvm.ptr) -> ()
    llvm.store %c0, %busy atomic release {alignment = 4 : i64} : i32, !llvm.ptr
  } else {
    llvm.call %function(%zero, %zero, %argument) : !llvm.ptr, (!llvm.ptr, !llvm.ptr, !llvm.ptr) -> ()
  }
  llvm.return
}

llvm.func @mlcflow_reset() {
  %gate = llvm.mlir.addressof @gate : !llvm.ptr
  %busy = llvm.mlir.addressof @busy : !llvm.ptr
  %sleepers = llvm.mlir.addressof @sleepers : !llvm.ptr
  %workers = llvm.mlir.addressof @workers : !llvm.ptr
  %mutex = llvm.mlir.addressof @mutex : !llvm.ptr
  %wake = llvm.mlir.addressof @wake : !llvm.ptr
  %null = llvm.mlir.zero : !llvm.ptr
  %c0 = arith.constant 0 : i32
  %none = arith.constant 0 : i64
  llvm.store %none, %gate : i64, !llvm.ptr
  llvm.store %c0, %busy : i32, !llvm.ptr
  llvm.store %c0, %sleepers : i32, !llvm.ptr
  llvm.store %c0, %workers : i32, !llvm.ptr
  %s0 = llvm.call @pthread_mutex_init(%mutex, %null) : (!llvm.ptr, !llvm.ptr) -> i32
  %s1 = llvm.call @pthread_cond_init(%wake, %null) : (!llvm.ptr, !llvm.ptr) -> i32
  llvm.return
}

llvm.func @mlcflow_fork_address() -> !llvm.ptr {
  %fork = llvm.mlir.addressof @mlcflow_fork : !llvm.ptr
  llvm.return %fork : !llvm.ptr
}
