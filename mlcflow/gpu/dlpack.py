"""Arrays on the device from and to other libraries, by DLPack, without a copy.

The structures are those of ``dlpack.h``, version 0.x, which every library still gives when it is
not asked for a newer one; see https://dmlc.github.io/dlpack/latest.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlcflow.errors import ExecutionError
from mlcflow.runtime.dtypes import is_tensor
from mlcflow.runtime.frame import row_major_strides
from mlcflow.runtime.interface import Port

CUDA = 2
"""DLPack's number for memory of a GPU of NVIDIA."""
ALIGNMENT = 16
"""Bytes at whose multiples arrays must begin for kernels to read vectors."""
_NAME = b"dltensor"
_CODES = {"int": 0, "uint": 1, "float": 2, "bfloat": 4, "complex": 5, "bool": 6}
_LEGACY = 1  # how the protocol calls the default stream, whose handle is 0


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64),
    )  # fmt: skip


class _Managed(ctypes.Structure):
    _fields_ = (
        ("tensor", _Tensor),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)
# The destructor sees an object that is going: it must not be counted once more.
_is_unused = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_pointer_of_going = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def is_on_device(value: Any) -> bool:
    """Whether ``value`` is an array in memory of a GPU."""
    if is_tensor(value):
        return bool(value.device.type == "cuda")
    ask = getattr(value, "__dlpack_device__", None)
    return ask is not None and ask()[0] == CUDA


def stream_of(value: Any) -> int:
    """The stream that the caller works on: PyTorch's current one, else the default stream."""
    if is_tensor(value):
        import torch

        return int(torch.cuda.current_stream(value.device).cuda_stream)
    return 0


@dataclass(frozen=True)
class Foreign:
    """An array of another library, contiguous, and what keeps it alive."""

    address: int
    shape: tuple[int, ...]
    dtype: str
    kept: Any


def receive(value: Any, port: Port, device: int, stream: int) -> Foreign:
    """The array that ``value`` is, ready for use on ``stream``.

    Raises ``ExecutionError`` for one on another device, with gaps, or not aligned to 16 bytes.
    """
    if is_tensor(value):
        value = value.detach().contiguous()
        value = value.clone() if value.data_ptr() % ALIGNMENT else value
        if str(value.dtype) == "torch.bool":  # which PyTorch refused to give for long
            import torch

            return _received(value.view(torch.uint8), port, device, stream, "bool")
    return _received(value, port, device, stream)


def _received(value: Any, port: Port, device: int, stream: int, dtype: str = "") -> Foreign:
    capsule = value.__dlpack__(stream=stream or _LEGACY)
    found = _Managed.from_address(_pointer(capsule, _NAME)).tensor
    shape = tuple(found.shape[: found.ndim])
    address = (found.data or 0) + found.byte_offset
    if found.device_id != device:
        raise ExecutionError(f"{port}: expected an array on GPU {device}, got {found.device_id}")
    strides = list(found.strides[: found.ndim]) if found.strides else row_major_strides(shape)
    steps = zip(strides, row_major_strides(shape), shape, strict=True)
    if math.prod(shape) and any(got != want for got, want, size in steps if size > 1):
        raise ExecutionError(f"{port}: expected a contiguous array, got strides {strides}")
    if address % ALIGNMENT and math.prod(shape):
        raise ExecutionError(f"{port}: expected an array that begins at a multiple of 16 bytes")
    return Foreign(address, shape, dtype or _name(found), capsule)


def _name(found: _Tensor) -> str:
    names = {code: name for name, code in _CODES.items()}
    kind = names.get(found.code, "unknown")
    return "bool" if kind == "bool" else f"{kind}{found.bits}"


_given: dict[int, tuple[Any, ...]] = {}
"""What capsules point at, by address, until someone calls their deleter."""


@ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
def _delete(managed: int) -> None:
    _given.pop(managed, None)


@ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
def _destroy(capsule: int) -> None:
    if _is_unused(capsule, _NAME):  # a consumer renames it, and deletes later
        _given.pop(_pointer_of_going(capsule, _NAME), None)


class DeviceArray:
    """A result on the device, for any library that takes DLPack: ``torch.from_dlpack(array)``.

    ``shape`` and ``dtype`` describe it. It is complete on the stream of the call that made it.
    """

    def __init__(self, memory: Any, port: Port, device: int, order: Callable[[int], None]) -> None:
        self._memory, self._device, self._order = memory, device, order
        self.shape, self.dtype = port.shape, port.dtype

    def data_ptr(self) -> int:
        """The address on the device."""
        return int(self._memory.data_ptr())

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self._device

    def __dlpack__(self, *, stream: int | None = None, **newer: Any) -> Any:
        """A capsule; what is asked of ``stream`` afterwards finds the array complete."""
        if stream is not None and stream >= 0:  # -1: the caller sees to it
            self._order(0 if stream == _LEGACY else stream)
        shape = (ctypes.c_int64 * max(1, len(self.shape)))(*self.shape)
        kind = self.dtype.rstrip("0123456789")
        managed = _Managed(
            _Tensor(
                data=self.data_ptr(),
                device_type=CUDA,
                device_id=self._device,
                ndim=len(self.shape),
                code=_CODES[kind],
                bits=int(self.dtype.removeprefix(kind) or 8),
                lanes=1,
                shape=shape,
                strides=None,
                byte_offset=0,
            ),
            None,
            ctypes.cast(_delete, ctypes.c_void_p).value,
        )
        where = ctypes.addressof(managed)
        _given[where] = managed, shape, self._memory
        return _new(where, _NAME, ctypes.cast(_destroy, ctypes.c_void_p).value)
