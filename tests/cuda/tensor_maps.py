"""What a tensor map says: the 128 bytes that the driver of the tests encodes and its kernels read.

On a chip these bytes are known to the driver and the chip alone. Here they are the arguments of
``cuTensorMapEncodeTiled``, one after the other. Dimensions are listed innermost first, as there.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

NBYTES, ALIGNMENT = 128, 64
ELEMENT_SIZES = (1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4)
"""Bytes of an element, by the number of its ``CUtensorMapDataType``."""
SWIZZLED = (None, 32, 64, 128)
"""Bytes of a row in shared memory, by the number of its ``CUtensorMapSwizzle``; 0 turns nothing."""
_LAYOUT = struct.Struct("<4s6BQ5Q4Q5H5B")
_MARK = b"tmap"


@dataclass(frozen=True)
class TensorMap:
    """The arguments of ``cuTensorMapEncodeTiled``, whose names these are.

    ``dims``, ``box`` and ``element_strides`` count elements, one for each dimension; ``strides``
    are bytes, of all dimensions but the first. The other numbers are those of the enumerations of
    the driver: data type, interleave, swizzle, L2 promotion, fill of what is out of bounds.
    """

    data_type: int
    address: int
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    element_strides: tuple[int, ...]
    interleave: int = 0
    swizzle: int = 0
    l2_promotion: int = 0
    oob_fill: int = 0

    @property
    def element_size(self) -> int:
        """Bytes of an element."""
        return ELEMENT_SIZES[self.data_type]

    @property
    def box_bytes(self) -> int:
        """Bytes that a copy of a box writes, and that its barrier counts, in bounds or not."""
        size = self.element_size
        for number, step in zip(self.box, self.element_strides, strict=True):
            size *= -(-number // step)
        return size

    def problem(self) -> str:
        """What ``cuTensorMapEncodeTiled`` refuses, or nothing."""
        rank = len(self.dims)
        lists = (self.box, self.element_strides, (1, *self.strides))
        if not 1 <= rank <= 5 or any(len(each) != rank for each in lists):
            return "a tensor has 1 to 5 dimensions, and each list as many"
        if not 0 <= self.data_type < len(ELEMENT_SIZES):
            return f"data type {self.data_type}"
        if not 0 <= self.swizzle < len(SWIZZLED):
            return f"swizzle {self.swizzle}"
        if self.interleave:
            return "interleaved tensors are not emulated"
        for wrong, text in self._wrong():
            if wrong:
                return text
        return ""

    def _wrong(self):
        inner = self.box[0] * self.element_size
        row = SWIZZLED[self.swizzle]
        yield self.address % 16 or not self.address, "the address is no multiple of 16"
        yield any(not 1 <= n <= 1 << 32 for n in self.dims), "a dimension is 1 to 2**32"
        yield any(n % 16 or not 0 < n < 1 << 40 for n in self.strides), "strides: multiples of 16"
        yield any(not 1 <= n <= 256 for n in self.box), "a box is 1 to 256 in each dimension"
        yield any(not 1 <= n <= 8 for n in self.element_strides), "element strides are 1 to 8"
        yield inner % 16, "a row of the box is no multiple of 16 bytes"
        yield row is not None and inner > row, "a row of the box is longer than the swizzle"

    def pack(self) -> bytes:
        """The 128 bytes."""
        rank = len(self.dims)
        kinds = (self.data_type, self.interleave, self.swizzle, self.l2_promotion, self.oob_fill)
        lists = ((self.dims, 5), (self.strides, 4), (self.box, 5), (self.element_strides, 5))
        numbers = [n for each, size in lists for n in (*each, *[0] * (size - len(each)))]
        return _LAYOUT.pack(_MARK, rank, *kinds, self.address, *numbers).ljust(NBYTES, b"\0")

    @staticmethod
    def unpack(data: bytes) -> TensorMap:
        """The tensor map of 128 bytes; ``ValueError`` if they are none."""
        mark, rank, kind, interleave, swizzle, promotion, fill, address, *rest = _LAYOUT.unpack(
            data[: _LAYOUT.size]
        )
        if mark != _MARK or len(data) != NBYTES:
            raise ValueError("these bytes are no tensor map")
        dims, strides, box, steps = (
            tuple(rest[first : first + size])
            for first, size in ((0, rank), (5, rank - 1), (9, rank), (14, rank))
        )
        return TensorMap(
            kind, address, dims, strides, box, steps, interleave, swizzle, promotion, fill
        )
