"""The memory of one call on a device."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mlcflow.gpu.device import DeviceMemory
from mlcflow.gpu.driver import Driver
from mlcflow.runtime.arguments import accept
from mlcflow.runtime.frame import Frame, Layout, address
from mlcflow.runtime.interface import Port

_OWN = ("arena", "output", "mutates", "status")


class DeviceFrame:
    """Memory for what a call takes and gives, and the packed list of its descriptors.

    ``held`` are parameters, prepared values and constants by name. One call uses it at a time.
    """

    def __init__(self, driver: Driver, layout: Layout, held: Mapping[str, DeviceMemory]) -> None:
        self._driver, self._layout = driver, layout
        self._memory: dict[int, DeviceMemory] = {}
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
        """Copy the inputs to the device and point the descriptors there."""
        sizes: dict[str, int] = {}
        given = iter(arrays)
        for port, start in self._placed:
            if port.role == "input":
                value = accept(port, start, next(given), self._frame, sizes)
                where = self._at(start, value.nbytes)
                self._driver.upload(where, address(value), value.nbytes)
                self._frame.point(start, where)

    def clear_status(self) -> None:
        """Note that no assertion has failed yet."""
        for port, start in self._placed:
            if port.role == "status":
                self._driver.clear(self._memory[start].address, port.nbytes)

    def status(self) -> np.ndarray | None:
        """1 + the number of an assertion that failed in a kernel, or 0.

        In host memory once the device has been waited for; ``None`` if there is no assertion.
        """
        for port, start in self._placed:
            if port.role == "status":
                found = np.zeros(port.shape, port.numpy)
                self._driver.download(found.ctypes.data, self._memory[start].address, port.nbytes)
                return found
        return None

    def results(self) -> list[np.ndarray]:
        """The results, in host memory once the device has been waited for."""
        found = []
        for port, start in self._placed:
            if port.role in ("output", "mutates"):
                found.append(self._take(port, start) if port.returned else self._copy(port, start))
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
        self._driver.download(array.ctypes.data, self._memory[start].address, array.nbytes)
        return array

    def _take(self, port: Port, start: int) -> np.ndarray:
        """Copy a result that the function allocated, and free it."""
        allocated, pointer, sizes, strides = self._frame.read(start, port)
        if 0 in sizes:
            self._driver.free(allocated)
            return np.empty(sizes, port.numpy)
        extent = sum((n - 1) * s for n, s in zip(sizes, strides, strict=True)) + 1
        raw = np.empty(extent, port.numpy)
        self._driver.download(raw.ctypes.data, pointer, raw.nbytes)
        self._driver.wait()
        self._driver.free(allocated)
        steps = [stride * raw.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(raw, sizes, steps).copy()
