"""Where a warpgroup reads the factors of a product: what a matrix descriptor says.

Read from the PTX ISA: "Asynchronous warpgroup level matrix instructions", its canonical layouts,
strides and descriptors, with ``T`` elements in 16 bytes. A place is the number of a byte in the
window of shared memory that 18 bits tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from cpu_shared import WINDOW
from cpu_warps import Problem

CHUNK, LINES = 16, 8  # bytes that stay together; lines after which a pattern repeats
_FIELDS = {"start": (0, 14), "leading": (16, 14), "stride": (32, 14), "base": (49, 3),
           "mode": (62, 2)}  # fmt: skip
_WIDTHS = (CHUNK, 128, 64, 32)  # bytes of a line in each mode


@dataclass(frozen=True)
class Descriptor:
    """The fields of a descriptor; start, leading and stride are bytes, ``width`` those of a line"""

    start: int
    leading: int
    stride: int
    base: int
    width: int

    @staticmethod
    def of(word: int) -> Descriptor:
        """The fields of the 64 bits; ``Problem`` for what the ISA forbids."""
        known = sum(((1 << size) - 1) << first for first, size in _FIELDS.values())
        if word & ~known & (1 << 64) - 1:
            raise Problem(f"a descriptor has bits outside of its fields: {word & ~known:#x}")
        start, leading, stride, base, mode = (
            word >> first & (1 << size) - 1 for first, size in _FIELDS.values()
        )
        found = Descriptor(start << 4, leading << 4, stride << 4, base, _WIDTHS[mode])
        if base:
            raise Problem(
                "a base offset without swizzle" if mode == 0 else "base offsets are not emulated"
            )
        if mode and found.start % (LINES * found.width) >= found.width:
            raise Problem(
                f"a pattern of {found.width}-byte lines begins at {found.start:#x},"
                f" no multiple of {LINES * found.width}, and the base offset is 0"
            )
        return found

    def swizzled(self, place: np.ndarray) -> np.ndarray:
        """Where the bytes lie that would be at these places: bits 4 to 6 take in 7 to 9."""
        return place ^ (place >> 3 & self.width - CHUNK)


@lru_cache(maxsize=4096)
def places(word: int, transposed: bool, size: int, extent: int, depth: int) -> np.ndarray:
    """The first byte of each element of an operand, ``extent`` along M or N, ``depth`` along K.

    ``transposed``: elements next to each other along M or N lie next to each other, not along K.
    """
    found = Descriptor.of(word)
    if transposed and size != 2:
        raise Problem("only factors of 16 bits can lie along M or N")
    along = _along_mn if transposed else _along_k
    numbers = np.arange(extent)[:, None], np.arange(depth)[None, :]
    linear = found.start + along(found, size, *numbers)
    _check(found, transposed, size, extent)
    result = found.swizzled(linear)
    if result.max() >= WINDOW:
        raise Problem("an operand reaches beyond the window of shared memory")
    if len(np.unique(result)) != result.size:
        raise Problem(f"elements of an operand lie in one place: {found}")
    return result


def _along_k(found: Descriptor, size: int, row: np.ndarray, k: np.ndarray) -> np.ndarray:
    """((8, m), (T, 2)):((width, SBO), (1, LBO or T))"""
    t = CHUNK // size
    next_chunk = found.leading if found.width == CHUNK else CHUNK
    rows = row % LINES * found.width + row // LINES * found.stride
    return rows + k % t * size + k // t * next_chunk


def _along_mn(found: Descriptor, size: int, mn: np.ndarray, k: np.ndarray) -> np.ndarray:
    """((T, chunks, m), (8, k)):((1, T, LBO), (width, SBO)); LBO and SBO change without swizzle"""
    t, chunks = CHUNK // size, found.width // CHUNK
    panel, group = found.leading, found.stride
    if found.width == CHUNK:
        panel, group = group, panel
    columns = mn % t * size + mn // t % chunks * CHUNK + mn // t // chunks * panel
    return columns + k % LINES * found.width + k // LINES * group


def _check(found: Descriptor, transposed: bool, size: int, extent: int) -> None:
    """Patterns of a swizzle begin where they must, and no line goes on in the next one."""
    if found.width == CHUNK:
        return
    read = min(extent * size, found.width) if transposed else 2 * CHUNK
    if found.start % found.width + read > found.width:
        raise Problem(f"{read} bytes from {found.start:#x} cross the end of a {found.width}B line")
    strides = {"stride": found.stride} if transposed or extent > LINES else {}
    if transposed and extent * size > found.width:
        strides["leading"] = found.leading
    for name, nbytes in strides.items():
        if nbytes % (LINES * found.width):
            raise Problem(
                f"the {name} dimension offset is {nbytes}, no multiple of {LINES * found.width}"
            )
