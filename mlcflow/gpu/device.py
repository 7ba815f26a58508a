"""What an executable keeps on a device: memory, kernels, the table of the host code."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from mlcflow.errors import ExecutionError, MlcflowError, unknown_name
from mlcflow.gpu.device_memory import CONSTANTS
from mlcflow.gpu.driver import Driver
from mlcflow.gpu.host_calls import has_tensor_maps, shared_of
from mlcflow.gpu.ptx import ptx_of
from mlcflow.mlir import clone, gpu, ir
from mlcflow.runtime.frame import address

CALLED = (
    "cuLaunchKernel",
    "cuMemcpyDtoHAsync_v2",
    "cuStreamSynchronize",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuTensorMapEncodeTiled",
)
"""The functions of the driver that host code calls; the last only where there are tensor maps."""
_STREAM, _ERROR, _KERNEL, FIRST = 6, 7, 8, 9
"""Words of the table, see host.mlir: behind the functions the stream, the first error, the kernel
that it is of, and all kernels."""


class DeviceMemory:
    """Bytes on a device, freed with the object.

    ``address`` is given for memory that the program has allocated. With a ``stream``, the memory
    is there for what is asked of that stream, until all of it is done.
    """

    def __init__(
        self, driver: Driver, nbytes: int, address: int = 0, stream: int | None = None
    ) -> None:
        self.nbytes = nbytes
        if stream is None:
            self.address, free = address or driver.allocate(nbytes), driver.free
        else:
            self.address = driver.allocate_on(stream, nbytes)
            free = partial(driver.free_on, stream)
        # Not when Python ends: the driver may have gone before.
        weakref.finalize(self, free, self.address).atexit = False

    def data_ptr(self) -> int:
        """The address, under the name that PyTorch gives it."""
        return self.address


def upload(driver: Driver, array: Any) -> DeviceMemory:
    """A copy of a contiguous numpy array or torch tensor on the device."""
    memory = DeviceMemory(driver, array.nbytes)
    driver.upload(memory.address, address(array), array.nbytes)
    return memory


class Kernels:
    """The kernels of a module, loaded, and the table through which host code finds them.

    ``module`` holds PTX as the stage ``ptx`` leaves it. Raises ``ExecutionError`` when the
    driver does not take it.
    """

    def __init__(self, driver: Driver, module: ir.Module) -> None:
        self._driver = driver
        shared = shared_of(module)
        self.names = list(shared)
        self.ptx = ptx = ptx_of(module)
        if self.names and not ptx:
            raise ExecutionError("the module launches kernels, and holds no PTX for them")
        self._table = (ctypes.c_uint64 * (FIRST + len(self.names)))()
        for number, name in enumerate(CALLED if has_tensor_maps(module) else CALLED[:-1]):
            self._table[number] = driver.address_of(name)
        if ptx:
            handle = driver.load_module(ptx)
            weakref.finalize(self, driver.unload_module, handle).atexit = False
            for number, name in enumerate(self.names):
                kernel = self._table[FIRST + number] = driver.find_kernel(handle, name)
                if shared[name]:
                    driver.allow_shared_memory(kernel, shared[name])

    def bind(self, entry: Callable[[int], None]) -> None:
        """Hand the table to the host code, by its function ``mlcflow_gpu_bind``."""
        table = ctypes.c_void_p(ctypes.addressof(self._table))
        packed = (ctypes.c_void_p * 1)(ctypes.addressof(table))
        entry(ctypes.addressof(packed))

    def on(self, stream: int) -> None:
        """Let the host code launch on ``stream`` from now on."""
        self._table[_STREAM] = stream

    def assembly(self, name: str | None = None) -> str:
        """PTX of all kernels, or of one. Raises ``MlcflowError`` for a name that is none."""
        if name is None:
            return self.ptx
        if name not in self.names:
            raise MlcflowError(unknown_name("kernel", name, self.names))
        begin = self.ptx.index(f".visible .entry {name}(")
        return self.ptx[begin : self.ptx.index("\n}\n", begin) + 2]

    def check(self) -> None:
        """Raise ``ExecutionError`` for the first error since the last check."""
        code = self._table[_ERROR]
        if code:
            self._table[_ERROR] = 0
            number = ctypes.c_int64(self._table[_KERNEL]).value
            other = {-1: "memory of the device", -2: "a tensor map"}
            what = other.get(number) or f"kernel '{self.names[number]}'"
            raise ExecutionError(f"{what}: {self._driver.describe(code)}")


def upload_constants(driver: Driver, module: ir.Module) -> dict[str, DeviceMemory]:
    """The constant arrays that host code passes to kernels, by name, on the device."""
    attributes = module.operation.attributes
    if CONSTANTS not in attributes:
        return {}
    return {
        entry.name: upload(driver, np.ascontiguousarray(ir.DenseElementsAttr(entry.attr)))
        for entry in ir.DictAttr(attributes[CONSTANTS])
    }


def without_kernels(module: ir.Module) -> ir.Module:
    """The host code alone."""
    host = clone(module)
    for op in list(host.body.operations):
        if isinstance(op, gpu.BinaryOp):
            op.operation.erase()
    return host
