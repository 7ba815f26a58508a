"""Checks and conversions of what a caller passes and receives."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from mlcflow.errors import ExecutionError
from mlcflow.runtime.dtypes import is_tensor, torch_module
from mlcflow.runtime.frame import ALIGNED_BYTES, Frame, Layout, aligned_array, row_major_strides
from mlcflow.runtime.interface import Port
from mlcflow.runtime.machine_code import free


def tabulate(layout: Layout, torch: Any) -> tuple[list[tuple], list[tuple]]:
    """What a call needs to know of each input, and of each result that it allocates."""
    inputs: list[tuple] = []
    results: list[tuple] = []
    for port, start in zip(layout.ports, layout.starts, strict=True):
        tensor_type = getattr(torch, port.dtype, None)
        if port.role == "input":
            # A complex tensor may be conjugated in name only: never the short way.
            short = None if port.numpy.kind == "c" else tensor_type
            mask = port.numpy.alignment - 1
            inputs.append((port, start, mask, port.shape, port.numpy, short))
        elif port.role in ("output", "mutates") and not port.returned:
            strides = tuple(row_major_strides(port.shape))
            make = aligned_array if port.nbytes >= ALIGNED_BYTES else np.empty
            results.append((start, port.shape, strides, port.numpy, tensor_type, make))
    return inputs, results


def accept(port: Port, start: int, value: Any, frame: Frame, sizes: dict[str, int]) -> Any:
    """``value`` as an array that fits ``port``; copied only if it has gaps or is misaligned.

    ``sizes`` collects the run-time sizes by name. Raises ``ExecutionError``.
    """
    if is_tensor(value):
        if value.device.type != "cpu":
            raise ExecutionError(f"{port}: expected a tensor on the CPU, got {value.device}")
        if str(value.layout) != "torch.strided":
            raise ExecutionError(f"{port}: expected a dense tensor, got {value.layout}")
        dtype = str(value.dtype).removeprefix("torch.")
    elif isinstance(value, np.ndarray | np.generic):
        dtype = value.dtype.name if value.dtype.isnative else str(value.dtype)
    else:
        raise ExecutionError(
            f"{port}: expected a numpy array or a torch tensor, got {type(value).__name__}"
        )
    if dtype != port.dtype:
        raise ExecutionError(f"{port}: expected {port.dtype}, got {dtype}")
    shape = tuple(value.shape)
    if shape != port.shape:
        check_shape(port, shape, sizes)
        frame.set_shape(start, shape)
    return _without_gaps(value, port)


def _without_gaps(value: Any, port: Port) -> Any:
    """``value`` as generated code reads it: contiguous, aligned, nothing left to negate."""
    if is_tensor(value):
        value = value.detach().resolve_conj().resolve_neg().contiguous()
        return value.clone() if value.data_ptr() % port.numpy.alignment else value
    return np.asarray(np.require(value, requirements=("C", "A")))


def check_shape(port: Port, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    """Raise ``ExecutionError`` unless ``port`` takes the shape; ``sizes`` as in :func:`accept`."""
    fits = len(shape) == len(port.shape) and all(
        want in (-1, size) for want, size in zip(port.shape, shape, strict=False)
    )
    if not fits:
        raise ExecutionError(f"{port}: got an array of shape {shape}")
    for name, want, size in zip(port.dims, port.shape, shape, strict=False):
        if want == -1 and sizes.setdefault(name, size) != size:
            raise ExecutionError(
                f"{port}: dimension {name} is {size} here and {sizes[name]} in an earlier input"
            )


def take(port: Port, start: int, frame: Frame, owned: set[int]) -> np.ndarray:
    """Copy a result that the function allocated; adds the memory to free to ``owned``."""
    allocated, pointer, sizes, strides = frame.read(start, port)
    itemsize = port.numpy.itemsize
    owned.add(allocated)
    if 0 in sizes:
        return np.empty(sizes, port.numpy)
    extent = sum((n - 1) * s for n, s in zip(sizes, strides, strict=True)) + 1
    memory = memoryview((ctypes.c_char * (extent * itemsize)).from_address(pointer))
    raw = np.frombuffer(memory, port.numpy)
    steps = [s * itemsize for s in strides]
    return np.lib.stride_tricks.as_strided(raw, sizes, steps).copy()


def as_tensor(array: np.ndarray, port: Port) -> Any:
    """A torch tensor over the memory of ``array``."""
    torch = torch_module()
    assert torch is not None
    if port.dtype == "bfloat16":  # numpy's bfloat16 is not one that torch knows
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def release(owned: set[int]) -> None:
    """Free the memory that :func:`take` collected."""
    for pointer in owned:
        free(pointer)


def overwrite(target: Any, value: Any, port: Port) -> None:
    """Write ``value`` into ``target``; each is a numpy array or a torch tensor.

    Raises ``ExecutionError`` for a read-only array.
    """
    if is_tensor(target):
        target.detach().copy_(value if is_tensor(value) else as_tensor(value, port))
    elif not target.flags.writeable:
        raise ExecutionError(
            f"input '{port.name}': the model writes into it, got a read-only array"
        )
    else:
        target[...] = value.numpy() if is_tensor(value) else value
