"""The CUDA driver, called through ctypes: nothing but the driver itself has to be installed."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from mlcflow.errors import ExecutionError
from mlcflow.target import CUDA_CHIPS, Target

LIBRARIES = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so")

FUNCTIONS = (
    "cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent", "cuModuleLoadDataEx", "cuModuleUnload",
    "cuModuleGetFunction", "cuFuncSetAttribute", "cuMemAlloc_v2", "cuMemFree_v2",
    "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuMemcpyDtoDAsync_v2", "cuMemsetD8Async",
    "cuLaunchKernel",
    "cuMemAllocAsync", "cuMemFreeAsync", "cuStreamCreate", "cuStreamDestroy_v2",
    "cuStreamSynchronize", "cuStreamBeginCapture_v2", "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags", "cuGraphLaunch", "cuGraphDestroy", "cuGraphExecDestroy",
    "cuEventCreate", "cuEventRecord", "cuEventDestroy_v2", "cuStreamWaitEvent",
    "cuGetErrorName", "cuGetErrorString",
)  # fmt: skip
"""What mlcflow calls of the driver, and ``cuTensorMapEncodeTiled`` where there are tensor maps."""

_MULTIPROCESSORS, _MAJOR, _MINOR = 16, 75, 76  # CUdevice_attribute
_L2_BYTES, _SHARED_BYTES = 38, 97
_MOST_DYNAMIC_SHARED_BYTES, _SHARED_PERCENT = 8, 9  # CUfunction_attribute
_NON_BLOCKING = 1  # CUstream_flags: does not wait for the default stream
_RELAXED = 2  # CUstreamCaptureMode: other threads may go on
_ERROR_LOG, _ERROR_LOG_BYTES = 5, 6  # CUjit_option


def load_library() -> Any:
    """The driver's library. Raises ``ExecutionError`` where there is none."""
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise ExecutionError(
        f"no driver for NVIDIA GPUs on this machine ({' or '.join(LIBRARIES)}); code for one can "
        "be compiled here, by `mlcflow compile --target=cuda:CHIP`, and run where there is one"
    )


def has_driver() -> bool:
    """Whether this machine has a driver; it may still have no GPU."""
    try:
        load_library()
    except ExecutionError:
        return False
    return True


@cache
def open_driver() -> Driver:
    """The driver of this machine with its first device. Raises ``ExecutionError``."""
    return Driver(load_library())


class Driver:
    """A device, and the memory, modules and streams on it.

    ``library`` has the functions of the driver as ctypes function pointers. Every call raises
    ``ExecutionError`` with the driver's own name of what went wrong. Addresses are integers.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self._functions = {name: self._find(name) for name in FUNCTIONS}
        self._call("cuInit", 0)
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if count.value == 0:
            raise ExecutionError("the driver sees no GPU")
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self.device = device.value
        context = ctypes.c_void_p()
        # The one that PyTorch uses as well: memory of one is memory of the other.
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._context = context

    def _find(self, name: str) -> Callable[..., int]:
        try:
            found: Callable[..., int] = getattr(self._library, name)
        except AttributeError as error:
            raise ExecutionError(f"the driver is too old: it has no {name}") from error
        return found

    def _call(self, name: str, *arguments: Any) -> None:
        code = self._functions[name](*arguments)
        if code:
            raise ExecutionError(f"{name}: {self.describe(code)}")

    def address_of(self, name: str) -> int:
        """Where a function of the driver is, for generated code. Raises ``ExecutionError``."""
        return ctypes.cast(self._find(name), ctypes.c_void_p).value or 0  # type: ignore[arg-type]

    def describe(self, code: int) -> str:
        """The driver's name for an error, and what it means."""
        words = []
        for name in ("cuGetErrorName", "cuGetErrorString"):
            text = ctypes.c_char_p()
            if self._functions[name](ctypes.c_int(code), ctypes.byref(text)) == 0 and text.value:
                words.append(text.value.decode())
        return ": ".join(words) or f"error {code}"

    def enter(self) -> None:
        """Let the calling thread work with the device."""
        self._call("cuCtxSetCurrent", self._context)

    def target(self) -> Target:
        """The device as a target. Raises ``ExecutionError`` for one older than sm_80."""
        major, minor = self._attribute(_MAJOR), self._attribute(_MINOR)
        chip = f"sm_{major}{minor}"
        if f"{chip}a" in CUDA_CHIPS:
            chip = f"{chip}a"  # with what no other chip has
        if chip not in CUDA_CHIPS:
            known = ", ".join(CUDA_CHIPS)
            raise ExecutionError(f"the GPU is an {chip}; code is generated for {known}")
        usual = Target("cuda", chip=chip)
        caches = (self._attribute(_SHARED_BYTES), self._attribute(_L2_BYTES), 0)
        return replace(usual, caches=caches, cores=self._attribute(_MULTIPROCESSORS))

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), number, self.device)
        return value.value

    def load_module(self, ptx: str) -> int:
        """Let the driver compile PTX; gives the handle of the module."""
        module = ctypes.c_void_p()
        log = ctypes.create_string_buffer(8192)
        options = (ctypes.c_int * 2)(_ERROR_LOG, _ERROR_LOG_BYTES)
        values = (ctypes.c_void_p * 2)(ctypes.addressof(log), len(log))
        code = self._functions["cuModuleLoadDataEx"](
            ctypes.byref(module), ctypes.c_char_p(ptx.encode()), 2, options, values
        )
        if code:
            said = log.value.decode(errors="replace").strip()
            raise ExecutionError(
                f"cuModuleLoadDataEx: {self.describe(code)}" + (f"\n{said}" if said else "")
            )
        return module.value or 0

    def unload_module(self, module: int) -> None:
        """Free a module."""
        self._call("cuModuleUnload", ctypes.c_void_p(module))

    def find_kernel(self, module: int, name: str) -> int:
        """The handle of a kernel."""
        function = ctypes.c_void_p()
        self._call(
            "cuModuleGetFunction",
            ctypes.byref(function),
            ctypes.c_void_p(module),
            ctypes.c_char_p(name.encode()),
        )
        return function.value or 0

    def allow_shared_memory(self, kernel: int, nbytes: int) -> None:
        """Let launches of a kernel bring up to so many bytes of shared memory for a block, and
        multiprocessors have as much as they can, rather than L1.
        """
        for attribute, value in ((_MOST_DYNAMIC_SHARED_BYTES, nbytes), (_SHARED_PERCENT, 100)):
            self._call(
                "cuFuncSetAttribute",
                ctypes.c_void_p(kernel),
                ctypes.c_int(attribute),
                ctypes.c_int(value),
            )

    def allocate(self, nbytes: int) -> int:
        """Memory on the device."""
        pointer = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(1, nbytes)))
        return pointer.value

    def free(self, address: int) -> None:
        """Give memory back."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, source: int, nbytes: int, stream: int = 0) -> None:
        """Copy ``nbytes`` from host memory at ``source``; it may be reused at once."""
        if nbytes:
            self._call(
                "cuMemcpyHtoDAsync_v2",
                ctypes.c_uint64(address),
                ctypes.c_void_p(source),
                ctypes.c_size_t(nbytes),
                ctypes.c_void_p(stream),
            )

    def download(self, destination: int, address: int, nbytes: int, stream: int = 0) -> None:
        """Copy ``nbytes`` to host memory, which holds them after :meth:`wait`."""
        if nbytes:
            self._call(
                "cuMemcpyDtoHAsync_v2",
                ctypes.c_void_p(destination),
                ctypes.c_uint64(address),
                ctypes.c_size_t(nbytes),
                ctypes.c_void_p(stream),
            )

    def clear(self, address: int, nbytes: int, stream: int = 0) -> None:
        """Set memory of the device to zero."""
        self._call(
            "cuMemsetD8Async",
            ctypes.c_uint64(address),
            ctypes.c_ubyte(0),
            ctypes.c_size_t(nbytes),
            ctypes.c_void_p(stream),
        )

    def wait(self, stream: int = 0) -> None:
        """Wait for all that was asked of the stream."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def copy(self, address: int, source: int, nbytes: int, stream: int = 0) -> None:
        """Copy within the device."""
        if nbytes:
            self._call(
                "cuMemcpyDtoDAsync_v2",
                ctypes.c_uint64(address),
                ctypes.c_uint64(source),
                ctypes.c_size_t(nbytes),
                ctypes.c_void_p(stream),
            )

    def allocate_on(self, stream: int, nbytes: int) -> int:
        """Memory that is there for what is asked of ``stream`` from now on."""
        pointer = ctypes.c_uint64()
        size = ctypes.c_size_t(max(1, nbytes))
        self._call("cuMemAllocAsync", ctypes.byref(pointer), size, ctypes.c_void_p(stream))
        return pointer.value

    def free_on(self, stream: int, address: int) -> None:
        """Give memory back when what was asked of ``stream`` is done."""
        self._call("cuMemFreeAsync", ctypes.c_uint64(address), ctypes.c_void_p(stream))

    def create_stream(self) -> int:
        """A stream of its own, which does not wait for others."""
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(_NON_BLOCKING))
        return stream.value or 0

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""
        self._call("cuStreamDestroy_v2", ctypes.c_void_p(stream))

    def begin_capture(self, stream: int) -> None:
        """Record what is asked of ``stream`` instead of doing it."""
        self._call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), ctypes.c_int(_RELAXED))

    def end_capture(self, stream: int) -> int:
        """What was recorded, ready to be launched."""
        graph, handle = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        flags = ctypes.c_uint64(0)
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(handle), graph, flags)
        self._call("cuGraphDestroy", graph)
        return handle.value or 0

    def abandon_capture(self, stream: int) -> None:
        """End a recording that went wrong; the driver answers by an error that is known."""
        graph = ctypes.c_void_p()
        self._functions["cuStreamEndCapture"](ctypes.c_void_p(stream), ctypes.byref(graph))

    def launch_graph(self, handle: int, stream: int) -> None:
        """Do what was recorded."""
        self._call("cuGraphLaunch", ctypes.c_void_p(handle), ctypes.c_void_p(stream))

    def destroy_graph(self, handle: int) -> None:
        """Give a recording back."""
        self._call("cuGraphExecDestroy", ctypes.c_void_p(handle))

    def record_event(self, stream: int) -> int:
        """A mark in ``stream``, to wait for or to measure from."""
        event = ctypes.c_void_p()
        self._call("cuEventCreate", ctypes.byref(event), ctypes.c_uint(0))
        self._call("cuEventRecord", event, ctypes.c_void_p(stream))
        return event.value or 0

    def wait_for_event(self, stream: int, event: int) -> None:
        """Let ``stream`` go on when the mark has been reached."""
        self._call(
            "cuStreamWaitEvent", ctypes.c_void_p(stream), ctypes.c_void_p(event), ctypes.c_uint(0)
        )

    def destroy_event(self, event: int) -> None:
        """Give a mark back."""
        self._call("cuEventDestroy_v2", ctypes.c_void_p(event))
