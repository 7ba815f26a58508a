"""The shared memory of a block, on the processor."""

from __future__ import annotations

import numpy as np

from mlcflow.gpu.memory import size_of
from mlcflow.mlir import gpu, ir
from mlcflow.runtime.frame import row_major_strides

POISON = 0xFF  # of every byte: not a number, for every floating-point type
WINDOW = 256 << 10  # the low 18 bits of an address are its place in shared memory
RESERVED = 1 << 10  # of the window, for the system: no buffer is at 0
DYNAMIC_ALIGNMENT = 1 << 10
LEAST_ALIGNMENT = 16


class OutOfBounds(Exception):
    """A block wrote to shared memory that is not its own."""


class SharedMemory:
    """What the blocks of a kernel share: buffers that it declares, and those of the launch.

    ``kinds``: the types of the former, ``declared``: their bytes. ``window``: while blocks run, the
    address of their memory, a multiple of ``WINDOW``; else 0. ``spans``: the place and the bytes of
    each buffer, ``bytes``: the whole window.
    """

    def __init__(self, function: gpu.GPUFuncOp) -> None:
        count = len(ir.FunctionType(function.function_type.value).inputs)
        arguments = list(function.regions[0].blocks[0].arguments)
        self.kinds = [ir.MemRefType(value.type) for value in arguments[count:]]
        self._places, end, needed = [], RESERVED, RESERVED
        for kind, alignment in zip(self.kinds, _alignments(function, self.kinds), strict=True):
            needed = _rounded(needed, alignment) + size_of(kind)
            self._places.append(_aligned(end, max(alignment, LEAST_ALIGNMENT)))
            end = self._places[-1] + size_of(kind)
        self.declared, self.window = needed - RESERVED, 0
        self.bytes, self._declared_end, self._end = np.empty(0, np.uint8), end, end
        self.spans: list[tuple[int, int]] = []

    def open(self, dynamic: int) -> list[int]:
        """Make memory for blocks, so many bytes of it by the launch; gives the descriptors of the
        buffers, that of dynamic memory last.
        """
        raw = np.empty(2 * WINDOW, np.uint8)
        self.bytes = raw[-raw.ctypes.data % WINDOW :][:WINDOW]
        self.window = self.bytes.ctypes.data
        fields: list[int] = []
        for kind, place in zip(self.kinds, self._places, strict=True):
            fields += descriptor(self.window + place, kind)
        place = _rounded(self._declared_end, DYNAMIC_ALIGNMENT if dynamic else 1)
        self._end = place + dynamic
        sizes = [size_of(kind) for kind in self.kinds]
        self.spans = [*zip(self._places, sizes, strict=True), (place, dynamic)]
        return [*fields, self.window + place, self.window + place, 0, dynamic, 1]

    def start_block(self) -> None:
        """Forget what the last block left."""
        self.bytes[:] = POISON

    def end_block(self) -> None:
        """Raise ``OutOfBounds`` if the block wrote beside its buffers."""
        for beside in self.bytes[:RESERVED], self.bytes[self._end :]:
            if (beside != POISON).any():
                raise OutOfBounds("a block wrote beyond its shared memory")

    def close(self) -> None:
        """Give the memory back."""
        self.bytes, self.window = np.empty(0, np.uint8), 0


def _alignments(function: gpu.GPUFuncOp, kinds: list[ir.MemRefType]) -> list[int]:
    """Of shared buffers, in bytes; 1 where nothing says more."""
    if "workgroup_attrib_attrs" not in function.attributes:
        return [1] * len(kinds)
    known = [ir.DictAttr(entry) for entry in function.attributes["workgroup_attrib_attrs"]]
    key = "llvm.align"
    return [ir.IntegerAttr(entry[key]).value if key in entry else 1 for entry in known]


def _aligned(place: int, alignment: int) -> int:
    """The next place of this alignment, and no better: who needs more has to say so."""
    place = _rounded(place, alignment)
    return place + alignment * (alignment < DYNAMIC_ALIGNMENT and place // alignment % 2 == 0)


def _rounded(place: int, alignment: int) -> int:
    return -(-place // alignment) * alignment


def descriptor(address: int, kind: ir.MemRefType) -> list[int]:
    """The words of an array of known shape without gaps."""
    shape = tuple(kind.shape)
    return [address, address, 0, *shape, *row_major_strides(shape)]
