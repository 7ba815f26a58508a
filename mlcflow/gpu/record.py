"""What host code asks of the driver, as data.

Host code with known shapes launches the same kernels with the same arguments at each call, as
far as these are no addresses. It is run once against functions that note what they are asked;
every array has a range of addresses of its own, by which it is known again.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mlcflow.errors import ExecutionError
from mlcflow.gpu.device import CALLED, FIRST
from mlcflow.runtime.frame import Frame, Layout

_APART = 44
"""Arrays lie so many powers of two apart, which is more than any GPU has memory."""

_HANDLE = ctypes.c_uint64
_LAUNCH = ctypes.CFUNCTYPE(
    ctypes.c_int, _HANDLE, *[ctypes.c_uint] * 7, ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p,
)  # fmt: skip
_ENCODE = ctypes.CFUNCTYPE(
    ctypes.c_int, _HANDLE, ctypes.c_uint, ctypes.c_uint, _HANDLE,
    *[ctypes.POINTER(ctypes.c_uint64)] * 2, *[ctypes.POINTER(ctypes.c_uint)] * 2,
    *[ctypes.c_uint] * 4,
)  # fmt: skip
_OTHER = ctypes.CFUNCTYPE(ctypes.c_int)
NOT_KNOWN_BEFORE = 801  # CUDA_ERROR_NOT_SUPPORTED


class Recorder:
    """A table for host code, as ``mlcflow.gpu.device.Kernels`` makes it, that notes launches."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._launches: list[dict[str, Any]] = []
        self._sizes: list[int] = []
        self._maps: dict[int, dict[str, Any]] = {}
        self._asked = ""
        self._table = (ctypes.c_uint64 * (FIRST + len(names)))()
        self._functions: list[Any] = []
        noted = {
            "cuLaunchKernel": _LAUNCH(self._launch),
            "cuTensorMapEncodeTiled": _ENCODE(self._encode),
        }
        for number, name in enumerate(CALLED):
            function = noted[name] if name in noted else _OTHER(self._refuse(name))
            self._functions.append(function)
            self._table[number] = ctypes.cast(function, ctypes.c_void_p).value or 0
        for number in range(len(names)):
            self._table[FIRST + number] = number

    def bind(self, entry: Callable[[int], None]) -> None:
        """Hand the table to the host code."""
        table = ctypes.c_void_p(ctypes.addressof(self._table))
        packed = (ctypes.c_void_p * 1)(ctypes.addressof(table))
        entry(ctypes.addressof(packed))

    def run(self, entry: Callable[[int], None], layout: Layout) -> list[dict[str, Any]]:
        """The launches of an entry function: kernel, grid, block, bytes of shared memory and
        words.

        A word is a number, or ``[port, offset in bytes]``, or a dictionary: the arguments of
        ``cuTensorMapEncodeTiled`` for a tensor map. Raises ``ExecutionError`` where what the
        function does depends on data or on sizes that only a call knows.
        """
        self._launches, self._maps, self._asked = [], {}, ""
        open_sizes = [port.name for port in layout.ports if not port.is_static or port.returned]
        if open_sizes:
            raise ExecutionError(f"{open_sizes[0]} has sizes that only a call knows")
        self._sizes = [port.nbytes for port in layout.ports]
        frame = _Frame(layout)
        entry(frame.packed)
        if self._asked:
            raise ExecutionError(f"the host code calls {self._asked}: it depends on data")
        return self._launches

    def _launch(self, kernel: int, *rest: Any) -> int:
        *sizes, shared, _, arguments, _ = rest
        words: list[Any] = []
        while place := arguments[len(words)]:  # host code ends the list by 0
            word = self._maps.get(place)
            words.append(word or self._known(ctypes.c_uint64.from_address(place).value))
        self._launches.append(
            {
                "kernel": self._names[kernel],
                "grid": sizes[:3],
                "block": sizes[3:6],
                "shared": shared,
                "words": words,
            }
        )
        return 0

    def _encode(self, place: int, kind: int, rank: int, array: int, *rest: Any) -> int:
        """Note what the tensor map at ``place`` says."""
        dims, strides, box, steps, interleave, swizzle, promotion, fill = rest
        self._maps[place] = {
            "array": self._known(array),
            "data_type": kind,
            "dims": dims[:rank],
            "strides": strides[: rank - 1],
            "box": box[:rank],
            "steps": steps[:rank],
            "kinds": [interleave, swizzle, promotion, fill],
        }
        return 0

    def _known(self, word: int) -> int | list[int]:
        port, offset = (word >> _APART) - 1, word & ((1 << _APART) - 1)
        if 0 <= port < len(self._sizes) and offset <= self._sizes[port]:
            return [port, offset]
        return word

    def _refuse(self, name: str) -> Callable[[], int]:
        def note() -> int:
            self._asked = self._asked or name
            return NOT_KNOWN_BEFORE

        return note


class _Frame:
    """Descriptors of arrays that are nowhere."""

    def __init__(self, layout: Layout) -> None:
        ports = [replace(port, role="input") for port in layout.ports]  # no memory for any
        self._frame = Frame(Layout(ports), {})
        for number, start in enumerate(layout.starts):
            self._frame.point(start, (number + 1) << _APART)
        self.packed = self._frame.packed
