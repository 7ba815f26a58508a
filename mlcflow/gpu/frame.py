"""The memory of one call on a device."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from mlcflow.errors import ExecutionError
from mlcflow.gpu.device import DeviceMemory
from mlcflow.gpu.dlpack import DeviceArray, Foreign, is_on_device, receive
from mlcflow.gpu.driver import Driver
from mlcflow.gpu.graphs import Graph
from mlcflow.runtime.arguments import accept, check_shape
from mlcflow.runtime.frame import Frame, Layout, address
from mlcflow.runtime.interface import Port

_OWN = ("arena", "mutates", "status")


class DeviceFrame:
    """Memory for what a call takes and gives, and the packed list of its descriptors.

    ``held`` are parameters, prepared values and constants by name. All work goes to ``stream``, or
    to one of the frame's own. One call uses it at a time. ``graph``: what it launches, recorded;
    ``False`` if that cannot be.
    """

    def __init__(
        self,
        driver: Driver,
        layout: Layout,
        held: Mapping[str, DeviceMemory],
        stream: int | None = None,
    ) -> None:
        self._driver, self._layout = driver, layout
        self.stream = driver.create_stream() if stream is None else stream
        if stream is None:
            weakref.finalize(self, driver.destroy_stream, self.stream).atexit = False
        self.graph: Graph | bool | None = None
        self.was_used = False
        self._memory: dict[int, DeviceMemory] = {}
        self._foreign: dict[str, Foreign] = {}
        self._placed = list(zip(layout.ports, layout.starts, strict=True))
        held = {port.name: held[port.name] for port in layout.ports if port.name in held}
        self._frame = Frame(layout, held)
        for port, start in self._placed:
            if port.role == "constant":
                self._frame.point(start, held[port.name].address)
            elif port.role in _OWN and not port.returned:
                self._frame.point(start, self._at(start, port.nbytes))
        self._held = held  # alive as long as something points there
        self.packed = self._frame.packed

    def _at(self, start: int, nbytes: int) -> int:
        """Memory for the port at ``start``, kept from call to call while it is large enough."""
        memory = self._memory.get(start)
        if memory is None or memory.nbytes < nbytes:
            memory = self._memory[start] = DeviceMemory(self._driver, nbytes)
        return memory.address

    def place_inputs(self, arrays: list) -> None:
        """Point the descriptors at the inputs; what is not on the device is copied there."""
        sizes: dict[str, int] = {}
        given = iter(arrays)
        self._foreign = {}
        for port, start in self._placed:
            if port.role == "input":
                value = next(given)
                if is_on_device(value):
                    self._frame.point(start, self._accept(port, start, value, sizes))
                    continue
                value = accept(port, start, value, self._frame, sizes)
                where = self._at(start, value.nbytes)
                self._driver.upload(where, address(value), value.nbytes, self.stream)
                self._frame.point(start, where)

    def _accept(self, port: Port, start: int, value: Any, sizes: dict[str, int]) -> int:
        """The address of an array on the device, if it fits."""
        found = receive(value, port, self._driver.device, self.stream)
        if found.dtype != port.dtype:
            raise ExecutionError(f"{port}: expected {port.dtype}, got {found.dtype}")
        if found.shape != port.shape:
            check_shape(port, found.shape, sizes)
            self._frame.set_shape(start, found.shape)
        self._foreign[port.name] = found
        return found.address

    def place_outputs(self, *, on_device: bool) -> None:
        """Memory for the results: new, if they stay on the device."""
        for port, start in self._placed:
            if port.role != "output":
                continue
            if port.returned and on_device:
                raise ExecutionError(
                    f"{port}: its size is known after the call only; pass arrays of the host"
                )
            if on_device:
                self._memory[start] = DeviceMemory(self._driver, port.nbytes, stream=self.stream)
            if not port.returned:
                self._frame.point(start, self._at(start, port.nbytes))

    def clear_status(self) -> None:
        """Note that no assertion has failed yet."""
        for port, start in self._placed:
            if port.role == "status":
                self._driver.clear(self._memory[start].address, port.nbytes, self.stream)

    def status(self) -> np.ndarray | None:
        """1 + the number of an assertion that failed in a kernel, or 0.

        In host memory once the device has been waited for; ``None`` if there is no assertion.
        """
        for port, start in self._placed:
            if port.role == "status":
                found = np.zeros(port.shape, port.numpy)
                where = self._memory[start].address
                self._driver.download(found.ctypes.data, where, port.nbytes, self.stream)
                return found
        return None

    def results(self) -> list[tuple[Port, np.ndarray]]:
        """The results, in host memory once the device has been waited for."""
        return [
            (port, self._take(port, start) if port.returned else self._copy(port, start))
            for port, start in self._placed
            if port.role in ("output", "mutates")
        ]

    def results_on_device(self, order: Callable[[int, int], None]) -> list[tuple[Port, Any]]:
        """The results where they are; inputs on the device are overwritten there.

        ``order(stream, other)`` lets ``other`` wait for ``stream``.
        """
        found: list[tuple[Port, Any]] = []
        for port, start in self._placed:
            if port.role == "output":
                memory = self._memory.pop(start)
                ready = partial(order, self.stream)
                found.append((port, DeviceArray(memory, port, self._driver.device, ready)))
            elif port.role == "mutates" and port.name in self._foreign:
                where, source = self._foreign[port.name].address, self._memory[start].address
                self._driver.copy(where, source, port.nbytes, self.stream)
            elif port.role == "mutates":
                found.append((port, self._copy(port, start)))
                self._driver.wait(self.stream)
        return found

    def allocated(self) -> dict[str, DeviceMemory]:
        """The prepared values that the function allocated, by name."""
        return {
            port.name: DeviceMemory(self._driver, port.nbytes, self._frame.read(start, port)[0])
            for port, start in self._placed
            if port.role == "prepared" and port.returned
        }

    def _copy(self, port: Port, start: int) -> np.ndarray:
        array = np.empty(port.shape, port.numpy)
        where = self._memory[start].address
        self._driver.download(array.ctypes.data, where, array.nbytes, self.stream)
        return array

    def _take(self, port: Port, start: int) -> np.ndarray:
        """Copy a result that the function allocated, and free it."""
        allocated, pointer, sizes, strides = self._frame.read(start, port)
        if 0 in sizes:
            self._driver.free(allocated)
            return np.empty(sizes, port.numpy)
        extent = sum((n - 1) * s for n, s in zip(sizes, strides, strict=True)) + 1
        raw = np.empty(extent, port.numpy)
        self._driver.download(raw.ctypes.data, pointer, raw.nbytes, self.stream)
        self._driver.wait(self.stream)
        self._driver.free(allocated)
        steps = [stride * raw.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(raw, sizes, steps).copy()
