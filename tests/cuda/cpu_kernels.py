"""The kernels of a module, compiled for the processor: what a GPU would do, thread by thread.

Takes the module that the stage ``outline`` leaves, before anything of NVIDIA is in it. Blocks run
one after the other. The threads of a block do, too, unless they wait for each other: then each is
a greenlet, and a barrier is where it hands over to the next.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence

import barrier_calls
import cpu_warps
import warpgroup_calls as groups
from cpu_shared import SharedMemory, descriptor
from cpu_threads import BARRIER, SHUFFLE, VALID, Threads

from mlcflow.gpu.lower import takes_bare_pointers
from mlcflow.gpu.tensor_maps import take_tensor_maps
from mlcflow.mlir import ExecutionEngine, arith, func, gpu, ir, memref, scf, walk
from mlcflow.passes import Pass
from mlcflow.pipelines.reference import to_llvm
from mlcflow.target import Target

IDS = 12  # block, thread, grid and block size, each x, y, z
_KINDS = (gpu.BlockIdOp, gpu.ThreadIdOp, gpu.GridDimOp, gpu.BlockDimOp)


class CpuKernel:
    """One kernel: called with the words of its arguments, blocks, threads, and the bytes of
    dynamic shared memory.

    ``shared``: the types of the buffers that it declares. ``memory``: what a block shares.
    """

    def __init__(self, function: gpu.GPUFuncOp, globals_: Sequence[ir.Operation]) -> None:
        self.name = ir.StringAttr(function.attributes["sym_name"]).value
        self.bare = takes_bare_pointers(function)
        count = len(ir.FunctionType(function.function_type.value).inputs)
        arguments = list(function.regions[0].blocks[0].arguments)
        self.kinds = [value.type for value in arguments[:count]]
        self.memory = SharedMemory(function)
        self.shared = self.memory.kinds
        names = {op.operation.name for op in walk(function)}
        together = ("gpu.barrier", "gpu.shuffle", *cpu_warps.TOGETHER, *groups.TOGETHER)
        self.waits = any(name.startswith((*together, *barrier_calls.TOGETHER)) for name in names)
        self._module = _as_function(function, self.name, self.shared, globals_)
        for step in to_llvm(Target.host()):
            step(self._module)
        self._engine = ExecutionEngine(self._module, opt_level=1, enable_object_dump=False)
        self._threads = Threads()
        self.warps = self._threads.warps
        for name, callback in self._threads.callbacks.items():
            self._engine.raw_register_runtime(name, ctypes.cast(callback, ctypes.c_void_p))
        self._engine.initialize()
        entry = self._engine.raw_lookup(self.name if self.waits else f"{self.name}_block")
        self._entry = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(entry)

    def __call__(
        self, words: list[int], grid: tuple[int, ...], block: tuple[int, ...], dynamic: int = 0
    ) -> None:
        fields, shared = self._fields(words), self.memory.open(dynamic)
        try:
            for place in itertools.product(*(range(size) for size in reversed(grid))):
                self.memory.start_block()
                self._run([*fields, *reversed(place)], [*grid, *block, *shared], block)
                self.memory.end_block()
        finally:
            self.memory.close()

    def _run(self, before: list[int], after: list[int], block: tuple[int, ...]) -> None:
        """One block; the numbers of the thread come between ``before`` and ``after``."""
        if self.waits:
            threads = itertools.product(*(range(size) for size in reversed(block)))
            self._threads.proxies.start(self.memory)
            self._threads.run([self._call([*before, *reversed(t), *after]) for t in threads])
        else:
            self._call([*before, 0, 0, 0, *after])()

    def _fields(self, words: list[int]) -> list[int]:
        """The arguments of the compiled function, in which an array is a whole descriptor."""
        if not self.bare:
            return words
        fields: list[int] = []
        for kind, word in zip(self.kinds, words, strict=True):
            is_array = isinstance(kind, ir.MemRefType)
            fields += descriptor(word, ir.MemRefType(kind)) if is_array else [word]
        return fields

    def _call(self, fields: list[int]):
        def call() -> None:
            values = (ctypes.c_int64 * len(fields))(*(_signed(field) for field in fields))
            base = ctypes.addressof(values)
            packed = (ctypes.c_void_p * len(fields))(*(base + 8 * n for n in range(len(fields))))
            self._entry(ctypes.addressof(packed))

        return call


def _signed(word: int) -> int:
    return ctypes.c_int64(word).value


def compile_kernels(module: ir.Module) -> dict[str, CpuKernel]:
    """The kernels of every ``gpu.module`` in ``module``, by name."""
    found = {}
    with module.context, ir.Location.unknown():
        for kernels in module.body.operations:
            if not isinstance(kernels, gpu.GPUModuleOp):
                continue
            body = list(kernels.regions[0].blocks[0].operations)
            globals_ = [op.operation for op in body if isinstance(op, memref.GlobalOp)]
            for function in body:
                if isinstance(function, gpu.GPUFuncOp):
                    kernel = CpuKernel(function, globals_)
                    found[kernel.name] = kernel
    return found


def _as_function(
    function: gpu.GPUFuncOp,
    name: str,
    shared: list[ir.MemRefType],
    globals_: Sequence[ir.Operation],
) -> ir.Module:
    """A module in which the kernel is a function of its arguments, the ids and its memory."""
    module, index = ir.Module.create(), ir.IndexType.get()
    i64 = ir.IntegerType.get_signless(64)
    for op in globals_:
        module.body.append(op.clone(ip=False))
    # The body is moved, not copied: shared memory gets another type.
    copy = function.operation.clone(ip=False)
    take_tensor_maps(copy)
    body = copy.regions[0].blocks[0]
    count = len(body.arguments) - len(shared)
    kinds = [value.type for value in list(body.arguments)[:count]]
    kinds += [index] * IDS + [ir.MemRefType.get(kind.shape, kind.element_type) for kind in shared]
    kinds.append(ir.Type.parse("memref<?xi8>"))
    with ir.InsertionPoint(module.body):
        func.FuncOp(BARRIER, ([], []), visibility="private")
        func.FuncOp(SHUFFLE, ([i64] * 4, [i64]), visibility="private")
        func.FuncOp(VALID, ([], [i64]), visibility="private")
        cpu_warps.declare()
        groups.declare()
        barrier_calls.declare()
        result = func.FuncOp(name, (kinds, []))
    together = (*groups.TOGETHER, *barrier_calls.TOGETHER)
    watched = any(op.operation.name.startswith(together) for op in walk(function))
    for block in list(copy.regions[0].blocks):
        block.append_to(result.operation.regions[0])
    moved = result.operation.regions[0].blocks[0]
    values = list(moved.arguments)
    ids = [moved.add_argument(index, ir.Location.unknown()) for _ in range(IDS)]
    for old in values[count:]:
        kind = ir.MemRefType(old.type)
        new = moved.add_argument(
            ir.MemRefType.get(kind.shape, kind.element_type), ir.Location.unknown()
        )
        old.replace_all_uses_with(new)
        _spread(new)
    for number in reversed(range(count, len(values))):
        moved.erase_argument(number)
    dynamic = moved.add_argument(kinds[-1], ir.Location.unknown())
    for op in walk(result):
        if isinstance(op, gpu.DynamicSharedMemoryOp):
            op.operation.results[0].replace_all_uses_with(dynamic)
            op.operation.erase()
            _spread(dynamic)
        else:
            _replace(op, ids)
    for op in walk(result):
        if isinstance(op, memref.AllocaOp):
            _spread(op.memref)
    with ir.InsertionPoint(module.body):
        _whole_block(name, kinds, count)
    for step in (Pass("lower-affine"), Pass("canonicalize")):
        step(module)
    if watched:
        groups.watch(result)
    return module


def _spread(value: ir.Value) -> None:
    for use in value.uses:
        for result in use.owner.operation.results:
            if isinstance(result.type, ir.MemRefType):
                kind = ir.MemRefType(result.type)
                result.set_type(ir.MemRefType.get(kind.shape, kind.element_type, kind.layout))
                _spread(result)


def _replace(op: ir.OpView, ids: list[ir.Value]) -> None:
    """Operations of the gpu dialect in terms of the ids and of calls."""
    if cpu_warps.replace(op) or groups.replace(op) or barrier_calls.replace(op):
        return
    if isinstance(op, gpu.ReturnOp):
        with ir.InsertionPoint(op):
            func.ReturnOp([])
        op.operation.erase()
    elif isinstance(op, gpu.BarrierOp):
        with ir.InsertionPoint(op):
            func.CallOp([], BARRIER, [])
        op.operation.erase()
    elif isinstance(op, gpu.ShuffleOp):
        _replace_shuffle(op)
    elif isinstance(op, _KINDS):
        level = _KINDS.index(type(op))
        letter = next(
            n for n, c in enumerate("xyz") if f"dim {c}>" in str(op.attributes["dimension"])
        )
        op.operation.results[0].replace_all_uses_with(ids[3 * level + letter])
        op.operation.erase()
    elif isinstance(op, gpu.LaneIdOp):
        with ir.InsertionPoint(op):
            lanes = arith.constant(ir.IndexType.get(), 32)
            op.operation.results[0].replace_all_uses_with(arith.remui(ids[3], lanes))
        op.operation.erase()


def _replace_shuffle(op: gpu.ShuffleOp) -> None:
    i64 = ir.IntegerType.get_signless(64)
    modes = ["xor", "up", "down", "idx"]
    text = str(op.attributes["mode"])
    mode = {"xor": 0, "down": 1, "up": 2, "idx": 3}[next(m for m in modes if m in text)]
    with ir.InsertionPoint(op):
        value, kind = op.operands[0], op.operands[0].type
        if not isinstance(kind, ir.IntegerType):
            value = arith.bitcast(ir.IntegerType.get_signless(kind.width), value)
        wide = value if value.type == i64 else arith.extui(i64, value)
        offset, width = (arith.extui(i64, number) for number in list(op.operands)[1:3])
        call = func.CallOp([i64], SHUFFLE, [wide, offset, width, arith.constant(i64, mode)])
        found = call.results[0]
        if kind.width < 64:
            found = arith.trunci(ir.IntegerType.get_signless(kind.width), found)
        if found.type != kind:
            found = arith.bitcast(kind, found)
        answer = func.CallOp([i64], VALID, []).results[0]
        valid = arith.trunci(ir.IntegerType.get_signless(1), answer)
    op.operation.results[0].replace_all_uses_with(found)
    op.operation.results[1].replace_all_uses_with(valid)
    op.operation.erase()


def _whole_block(name: str, kinds: list[ir.Type], count: int) -> None:
    """``name_block``: all threads of a block, one after the other."""
    index = ir.IndexType.get()
    around = func.FuncOp(f"{name}_block", (kinds, []))
    with ir.InsertionPoint(around.add_entry_block()):
        values = list(around.arguments)
        zero, one = arith.constant(index, 0), arith.constant(index, 1)
        loops, place = [], None
        for letter in reversed(range(3)):
            with place or ir.InsertionPoint.current:
                loop = scf.ForOp(zero, values[count + 9 + letter], one)
            loops.append(loop)
            place = ir.InsertionPoint(loop.body)
        threads = [loop.induction_variable for loop in reversed(loops)]
        with ir.InsertionPoint(loops[-1].body):
            first = count + 3
            func.CallOp([], name, [*values[:first], *threads, *values[first + 3 :]])
        for loop in loops:
            with ir.InsertionPoint(loop.body):
                scf.YieldOp([])
        func.ReturnOp([])
