"""A driver of NVIDIA without a GPU: it notes every call, and kernels run on the processor.

Memory of the device is memory of the process, poisoned when it is new. What a real driver would
refuse is refused: memory that was freed, copies beyond an end, kernels that the PTX does not have.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_void_p

import numpy as np
from cpu_kernels import CpuKernel, compile_kernels
from cpu_shared import POISON
from tensor_maps import ALIGNMENT, NBYTES, TensorMap

from mlcflow.gpu.tensor_maps import is_tensor_map
from mlcflow.mlir import ir
from mlcflow.runtime.frame import aligned

NO_MEMORY, INVALID, NOT_FOUND, ILLEGAL_ADDRESS, LAUNCH_FAILED = 2, 1, 500, 700, 719
CAPTURING = 900
NAMES = {
    NO_MEMORY: "CUDA_ERROR_OUT_OF_MEMORY",
    INVALID: "CUDA_ERROR_INVALID_VALUE",
    NOT_FOUND: "CUDA_ERROR_NOT_FOUND",
    ILLEGAL_ADDRESS: "CUDA_ERROR_ILLEGAL_ADDRESS",
    LAUNCH_FAILED: "CUDA_ERROR_LAUNCH_FAILED",
    CAPTURING: "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
}
MOST_SHARED, MOST_DECLARED = 227 << 10, 48 << 10
MAX_DYNAMIC_SHARED, SHARED_PERCENT = 8, 9  # of CUfunction_attribute
ATTRIBUTES = {16: 132, 75: 9, 76: 0, 38: 50 << 20, 97: MOST_SHARED}  # those of an H100


class FakeDriver:
    """Stands for the library of the driver: each function is a C function pointer.

    ``calls`` lists what was called, kernels by their names. ``fail`` maps the name of a function
    to the error that its next call gives.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail: dict[str, int] = {}
        self.memory: dict[int, np.ndarray] = {}
        self.kernels: dict[str, CpuKernel] = {}
        self.ptx = ""
        self.streams: list[int] = []  # of the kernels that were launched
        self.capturing: dict[int, list] = {}
        self.graphs: dict[int, list] = {}
        self._handles = itertools.count(0xE0)
        self._names: list[str] = []
        self._allowed: list[int] = []  # bytes of dynamic shared memory
        self._texts: dict[int, bytes] = {}
        self._names_of_errors: dict[int, bytes] = {}  # alive while C points there
        for name, arguments in SIGNATURES.items():
            pointer = ctypes.CFUNCTYPE(c_int, *arguments)
            setattr(self, name, pointer(self._guarded(name, getattr(self, f"_{name}", None))))

    def on_stage(self, record) -> None:
        """Take the kernels of a pipeline as it runs."""
        if record.name == "outline":
            self.take(record.module)

    def take(self, module: ir.Module) -> None:
        """Compile the kernels of the module that the stage ``outline`` left."""
        self.kernels |= compile_kernels(module)

    @property
    def launched(self) -> list[str]:
        """The kernels that were launched, in order."""
        return [call.removeprefix("launch ") for call in self.calls if call.startswith("launch ")]

    def _guarded(self, name, function):
        def call(*arguments) -> int:
            self.calls.append(name)
            if name in self.fail:
                return self.fail.pop(name)
            try:
                return (function(*arguments) or 0) if function else 0
            except Exception as error:  # C would get any number
                self._texts[LAUNCH_FAILED] = f"{type(error).__name__}: {error}".encode()
                return LAUNCH_FAILED

        return call

    def _holds(self, address: int, nbytes: int) -> bool:
        return any(
            start <= address and address + nbytes <= start + len(memory)
            for start, memory in self.memory.items()
        )

    def _cuDeviceGetCount(self, count) -> None:
        count[0] = 1

    def _cuDeviceGetAttribute(self, value, number, device) -> None:
        value[0] = ATTRIBUTES[number]

    def _cuDevicePrimaryCtxRetain(self, context, device) -> None:
        context[0] = 0xC0

    def _cuModuleLoadDataEx(self, module, text, count, options, values) -> None:
        self.ptx, module[0] = text.decode(), 0xD0

    def _cuModuleGetFunction(self, function, module, name) -> int:
        found = name.decode()
        if f".entry {found}(" not in self.ptx or found not in self.kernels:
            return NOT_FOUND
        self._names.append(found)
        self._allowed.append(MOST_DECLARED)
        function[0] = len(self._names)
        return 0

    def _cuFuncSetAttribute(self, function, attribute, value) -> int:
        if attribute == SHARED_PERCENT:
            return 0 if 0 <= value <= 100 else INVALID
        most = MOST_SHARED - self.kernels[self._names[function - 1]].memory.declared
        if attribute != MAX_DYNAMIC_SHARED or not 0 <= value <= most:
            return INVALID
        self._allowed[function - 1] = value
        return 0

    def _cuMemAlloc_v2(self, address, nbytes) -> int:
        if nbytes == 0:
            return INVALID
        raw = np.full(nbytes + 256, POISON, np.uint8)
        memory = raw[-raw.ctypes.data % 256 :][:nbytes]
        self.memory[memory.ctypes.data] = memory
        address[0] = memory.ctypes.data
        return 0

    def _cuMemFree_v2(self, address) -> int:
        return 0 if self.memory.pop(address, None) is not None else INVALID

    def _cuMemAllocAsync(self, address, nbytes, stream) -> int:
        return self._cuMemAlloc_v2(address, nbytes)

    def _cuMemFreeAsync(self, address, stream) -> int:
        return self._cuMemFree_v2(address)

    def _cuStreamCreate(self, stream, flags) -> None:
        stream[0] = next(self._handles)

    def _cuStreamSynchronize(self, stream) -> int:
        return CAPTURING if stream in self.capturing else 0

    def _cuStreamBeginCapture_v2(self, stream, mode) -> int:
        if not stream:  # the default stream cannot
            return CAPTURING
        self.capturing[stream] = []
        return 0

    def _cuStreamEndCapture(self, stream, graph) -> None:
        graph[0] = next(self._handles)
        self.graphs[graph[0]] = self.capturing.pop(stream)

    def _cuGraphInstantiateWithFlags(self, made, graph, flags) -> None:
        made[0] = next(self._handles)
        self.graphs[made[0]] = self.graphs[graph]

    def _cuGraphLaunch(self, graph, stream) -> int:
        for ask in self.graphs[graph]:
            code = ask()
            if code:
                return code
        return 0

    def _cuGraphDestroy(self, graph) -> None:
        del self.graphs[graph]

    def _cuGraphExecDestroy(self, graph) -> None:
        del self.graphs[graph]

    def _cuEventCreate(self, event, flags) -> None:
        event[0] = next(self._handles)

    def _cuMemcpyDtoDAsync_v2(self, address, source, nbytes, stream) -> int:
        if not self._holds(address, nbytes) or not self._holds(source, nbytes):
            return INVALID
        ctypes.memmove(address, source, nbytes)
        return 0

    def _cuMemcpyHtoDAsync_v2(self, address, source, nbytes, stream) -> int:
        if not self._holds(address, nbytes):
            return INVALID
        ctypes.memmove(address, source, nbytes)
        return 0

    def _cuMemcpyDtoHAsync_v2(self, target, address, nbytes, stream) -> int:
        if stream in self.capturing:
            return CAPTURING
        if not self._holds(address, nbytes):
            return INVALID
        ctypes.memmove(target, address, nbytes)
        return 0

    def _cuMemsetD8Async(self, address, value, nbytes, stream) -> int:
        if stream in self.capturing:
            again = functools.partial(self._cuMemsetD8Async, address, value, nbytes, None)
            self.capturing[stream].append(again)
            return 0
        if not self._holds(address, nbytes):
            return INVALID
        ctypes.memset(address, value, nbytes)
        return 0

    def _cuLaunchKernel(
        self, function, gx, gy, gz, bx, by, bz, shared, stream, arguments, extra
    ) -> int:
        name = self._names[function - 1]
        self.calls[-1] = f"launch {name}"
        if min(gx, gy, gz, bx, by, bz) < 1 or bx * by * bz > 1024 or max(gy, gz) > 65535:
            return INVALID
        kernel = self.kernels[name]
        if kernel.memory.declared > MOST_DECLARED or shared > self._allowed[function - 1]:
            return INVALID
        words, held = [], []
        for number, is_map in enumerate(_arguments(kernel)):
            if is_map:  # by value: a copy, which the kernel reads when it runs
                held.append(aligned(NBYTES))
                ctypes.memmove(held[-1].ctypes.data, arguments[number], NBYTES)
                TensorMap.unpack(held[-1].tobytes())
                words.append(held[-1].ctypes.data)
            else:
                words.append(c_uint64.from_address(arguments[number]).value)
        for kind, word in zip(kernel.kinds, words, strict=False):
            if kernel.bare and isinstance(kind, ir.MemRefType) and not self._holds(word, 1):
                return ILLEGAL_ADDRESS
        sizes = (gx, gy, gz), (bx, by, bz), shared
        ask = functools.partial(self._run, name, words, sizes, stream, held)
        if stream in self.capturing:
            self.calls.pop()
            self.capturing[stream].append(ask)
            return 0
        self.calls.pop()
        return ask()

    def _run(self, name, words, sizes, stream, held) -> int:
        """``held``: what ``words`` are addresses in."""
        self.calls.append(f"launch {name}")
        self.streams.append(stream or 0)
        self.kernels[name](words, *sizes)
        return 0

    def _cuTensorMapEncodeTiled(
        self, place, kind, rank, array, dims, strides, box, steps, *kinds
    ) -> int:
        lists = dims[:rank], strides[: rank - 1], box[:rank], steps[:rank]
        found = TensorMap(kind, array, *map(tuple, lists), *kinds)
        extent = found.element_size * found.dims[0]
        if rank > 1:
            extent += sum(
                (size - 1) * step for size, step in zip(lists[0][1:], lists[1], strict=True)
            )
        if place % ALIGNMENT or found.problem() or not self._holds(array, extent):
            return INVALID
        ctypes.memmove(place, found.pack(), NBYTES)
        return 0

    def _cuGetErrorName(self, code, text) -> int:
        self._names_of_errors[code] = NAMES.get(code, f"CUDA_ERROR_{code}").encode()
        text[0] = self._names_of_errors[code]
        return 0

    def _cuGetErrorString(self, code, text) -> int:
        text[0] = self._texts.get(LAUNCH_FAILED, b"") if code == LAUNCH_FAILED else b"of the fake"
        return 0


def _arguments(kernel: CpuKernel) -> list[bool]:
    """Of each word that a kernel takes, whether it is a tensor map."""
    found = []
    for kind in kernel.kinds:
        array = isinstance(kind, ir.MemRefType) and not kernel.bare
        count = 3 + 2 * ir.MemRefType(kind).rank if array else 1
        found += [is_tensor_map(kind)] * count
    return found


SIGNATURES = {
    "cuInit": [c_uint],
    "cuDeviceGetCount": [POINTER(c_int)],
    "cuDeviceGet": [POINTER(c_int), c_int],
    "cuDeviceGetAttribute": [POINTER(c_int), c_int, c_int],
    "cuDevicePrimaryCtxRetain": [POINTER(c_void_p), c_int],
    "cuCtxSetCurrent": [c_void_p],
    "cuModuleLoadDataEx": [POINTER(c_void_p), c_char_p, c_uint, c_void_p, c_void_p],
    "cuModuleUnload": [c_void_p],
    "cuModuleGetFunction": [POINTER(c_void_p), c_void_p, c_char_p],
    "cuFuncSetAttribute": [c_void_p, c_int, c_int],
    "cuMemAlloc_v2": [POINTER(c_uint64), c_size_t],
    "cuMemFree_v2": [c_uint64],
    "cuMemcpyHtoDAsync_v2": [c_uint64, c_void_p, c_size_t, c_void_p],
    "cuMemcpyDtoHAsync_v2": [c_void_p, c_uint64, c_size_t, c_void_p],
    "cuMemsetD8Async": [c_uint64, c_ubyte, c_size_t, c_void_p],
    "cuStreamSynchronize": [c_void_p],
    "cuMemcpyDtoDAsync_v2": [c_uint64, c_uint64, c_size_t, c_void_p],
    "cuMemAllocAsync": [POINTER(c_uint64), c_size_t, c_void_p],
    "cuMemFreeAsync": [c_uint64, c_void_p],
    "cuStreamCreate": [POINTER(c_void_p), c_uint],
    "cuStreamDestroy_v2": [c_void_p],
    "cuStreamWaitEvent": [c_void_p, c_void_p, c_uint],
    "cuStreamBeginCapture_v2": [c_void_p, c_int],
    "cuStreamEndCapture": [c_void_p, POINTER(c_void_p)],
    "cuGraphInstantiateWithFlags": [POINTER(c_void_p), c_void_p, c_uint64],
    "cuGraphLaunch": [c_void_p, c_void_p],
    "cuGraphDestroy": [c_void_p],
    "cuGraphExecDestroy": [c_void_p],
    "cuEventCreate": [POINTER(c_void_p), c_uint],
    "cuEventRecord": [c_void_p, c_void_p],
    "cuEventDestroy_v2": [c_void_p],
    "cuLaunchKernel": [
        c_uint64, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_void_p,
        POINTER(c_void_p), c_void_p,
    ],
    "cuTensorMapEncodeTiled": [
        c_void_p, c_uint, c_uint, c_void_p, *[POINTER(c_uint64)] * 2, *[POINTER(c_uint)] * 2,
        *[c_uint] * 4,
    ],
    "cuGetErrorName": [c_int, POINTER(c_char_p)],
    "cuGetErrorString": [c_int, POINTER(c_char_p)],
}  # fmt: skip
