"""The memory of one call: descriptors, scratch, and the packed argument list.

A frame is built once and used by one call at a time. A call then writes two pointers an array
and jumps, which costs a microsecond; building descriptors anew costs a hundred.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mlcflow.runtime.interface import Port

WORD = 8
ALIGNMENT = 64
ALIGNED_BYTES = 1 << 20
"""Arrays of results from this size on start at a multiple of ``ALIGNMENT``; the rest need not."""


def aligned(nbytes: int) -> np.ndarray:
    """``nbytes`` bytes that start at a multiple of ``ALIGNMENT``."""
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    skip = -raw.ctypes.data % ALIGNMENT
    return raw[skip : skip + nbytes]


def aligned_array(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array that starts at a multiple of ``ALIGNMENT``, of undefined contents."""
    return aligned(math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)


def address(array: Any) -> int:
    """Where the first element of a numpy array or a torch tensor lies."""
    return array.data_ptr() if hasattr(array, "data_ptr") else array.ctypes.data


# In numpy's C interface the pointer to the data is the first field after Python's own.
_DATA = object.__basicsize__
_word = ctypes.c_uint64.from_address


def _read_address(array: np.ndarray) -> int:
    return _word(id(array) + _DATA).value


def _fast_address() -> Callable[[np.ndarray], int]:
    """How to find the memory of an array: reading the field of the object takes 0.2 µs,
    ``array.ctypes.data`` 1.2 µs, half of a whole call. Used only where it is seen to work.
    """
    probes = [np.zeros(3), np.zeros(3)[1:]]
    works = ctypes.sizeof(ctypes.c_void_p) == WORD and sys.implementation.name == "cpython"
    if works and all(_read_address(probe) == probe.ctypes.data for probe in probes):
        return _read_address
    return address


array_address = _fast_address()


def row_major_strides(shape: tuple[int, ...]) -> list[int]:
    """Strides in elements of a contiguous array."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return strides[::-1]


class Layout:
    """Where the descriptor of each port of a function lies, in words.

    A memref descriptor is ``allocated, aligned, offset, sizes..., strides...``, a word each.
    The descriptors lie one after the other, in the order of ``ports``; returned memrefs come
    first, as one structure, as MLIR's C interface asks.
    """

    def __init__(self, ports: list[Port]) -> None:
        self.ports = ports
        self.starts, self.size = [], 0
        for port in ports:
            self.starts.append(self.size)
            self.size += 3 + 2 * len(port.shape)
        passed = [s for s, port in zip(self.starts, ports, strict=True) if not port.returned]
        self.pointers = ([0] if len(passed) < len(ports) else []) + passed


class Frame:
    """The descriptors of one function, ready to be pointed at data.

    ``held`` are the arrays of the parameters and prepared values by name. The frame owns
    the arena.
    """

    def __init__(self, layout: Layout, held: Mapping[str, Any]) -> None:
        self.words = (ctypes.c_uint64 * layout.size)()
        base = ctypes.addressof(self.words)
        self._slots = (ctypes.c_void_p * len(layout.pointers))(
            *(base + WORD * start for start in layout.pointers)
        )
        slot = ctypes.addressof(self._slots)
        self._packed = (ctypes.c_void_p * len(layout.pointers))(
            *(slot + WORD * index for index in range(len(layout.pointers)))
        )
        self.packed = ctypes.addressof(self._packed)
        self._held = []
        for start, port in zip(layout.starts, layout.ports, strict=True):
            array = aligned(port.nbytes) if port.role == "arena" else held.get(port.name)
            if port.role in ("arena", "parameter", "prepared") and not port.returned:
                self._held.append(array)
                self.point(start, address(array))
            if port.is_static:
                self.set_shape(start, port.shape)

    def point(self, start: int, where: int) -> None:
        """Point the descriptor at ``start`` at the address ``where``."""
        self.words[start] = self.words[start + 1] = where

    def set_shape(self, start: int, shape: tuple[int, ...]) -> None:
        """Give the descriptor at ``start`` the sizes and strides of a contiguous array."""
        self.words[start + 2] = 0
        for offset, value in enumerate([*shape, *row_major_strides(shape)]):
            self.words[start + 3 + offset] = value

    def read(self, start: int, port: Port) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
        """The descriptor at ``start``: allocated, first element, sizes, strides in elements."""
        rank = len(port.shape)
        allocated, pointer, offset = self.words[start : start + 3]
        sizes = self.words[start + 3 : start + 3 + rank]
        strides = self.words[start + 3 + rank : start + 3 + 2 * rank]
        return allocated, pointer + offset * port.numpy.itemsize, tuple(sizes), tuple(strides)
