"""Calls in which no access beyond an array goes unnoticed: a test of generated code.

Every array of a call, inputs, parameters, scratch and results, lies in memory of its own, at the
end or at the start of its pages, and the pages before and after may not be touched. Inputs and
parameters cannot be written either. The call runs in a worker process, which a wrong access ends.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mlcflow.check.isolate import Limits, Say, WorkerDied, isolated
from mlcflow.errors import ExecutionError, MlcflowError
from mlcflow.runtime.executable import Executable
from mlcflow.runtime.frame import ALIGNMENT, Frame, Layout, address
from mlcflow.runtime.interface import Port
from mlcflow.runtime.symbols import process

Edge = Literal["end", "start"]

_PAGE = mmap.PAGESIZE
_NONE, _READ = 0, 1  # PROT_NONE, PROT_READ
_POISON = 0xA5
_SA_SIGINFO = 4
_FAULT_ADDRESS = 16  # bytes before si_addr in siginfo_t on 64-bit Linux
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


@dataclass(frozen=True)
class Region:
    """``size`` bytes at ``start`` for ``port``, within pages ``first`` to ``last`` (addresses).

    The pages at both ends must not be touched. Between them, what is not the array is poison.
    """

    port: Port
    start: int
    size: int
    memory: mmap.mmap
    first: int
    last: int

    def describe(self, where: int) -> str:
        """What an access at the address ``where`` did."""
        if where >= self.start + self.size:
            return f"{where - self.start - self.size} bytes after the end of {self.port}"
        if where < self.start:
            return f"{self.start - where} bytes before the start of {self.port}"
        return f"{where - self.start} bytes after the start of {self.port}, which is only read"

    def protect(self, *, read_only: bool) -> None:
        """Forbid the pages around it; with ``read_only``, also to write it."""
        _mprotect(self.first, _PAGE, _NONE)
        _mprotect(self.last - _PAGE, _PAGE, _NONE)
        if read_only:
            _mprotect(self.first + _PAGE, self.last - self.first - 2 * _PAGE, _READ)

    def is_whole(self) -> bool:
        """Whether the poison around the array is as it was."""
        before = ctypes.string_at(self.first + _PAGE, self.start - self.first - _PAGE)
        end = self.start + self.size
        after = ctypes.string_at(end, self.last - _PAGE - end)
        return not (before + after).strip(bytes([_POISON]))

    def array(self) -> np.ndarray:
        """The array, with the shape of the port."""
        raw = (ctypes.c_char * self.size).from_address(self.start)
        return np.frombuffer(memoryview(raw), self.port.numpy).reshape(self.port.shape)


def _mprotect(start: int, size: int, mode: int) -> None:
    call = process().mprotect
    call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if call(start, size, mode):
        raise OSError("mprotect failed")


def guarded(port: Port, edge: Edge, *, alignment: int = 1) -> Region:
    """Memory for the array of a port, at the end or the start of its pages."""
    inner = -(-max(port.nbytes, 1) // _PAGE) * _PAGE
    memory = mmap.mmap(-1, inner + 2 * _PAGE)
    first = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    ctypes.memset(first, _POISON, inner + 2 * _PAGE)
    start = first + _PAGE
    if edge == "end":
        start += (inner - port.nbytes) // alignment * alignment
    return Region(port, start, port.nbytes, memory, first, first + inner + 2 * _PAGE)


@dataclass
class _Call:
    """One call of an executable on guarded memory."""

    executable: Executable
    edge: Edge
    regions: list[Region] = field(default_factory=list)

    def run(self, arrays: tuple) -> list[np.ndarray]:
        """The results. Raises ``ExecutionError`` where poison beside an array was written."""
        exe = self.executable
        held = dict(exe._held)
        ports = exe._prepare_layout.ports
        if any(port.role == "prepared" for port in ports):
            self._enter("prepare", exe._prepare_layout, held, [])
        results = self._enter("main", exe._layout, held, list(arrays))
        for region in self.regions:
            if not region.is_whole():
                raise ExecutionError(f"the code writes beside {region.port}")
        return [region.array().copy() for region in results]

    def _enter(self, name: str, layout: Layout, held: dict[str, Any], inputs: list) -> list[Region]:
        """Call a function; what ``prepare`` computes is added to ``held``."""
        frame, results = Frame(layout, held), []
        for port, start in zip(layout.ports, layout.starts, strict=True):
            if port.returned or not port.is_static:
                raise MlcflowError(f"{port}: only arrays of known size can be guarded")
            given = inputs.pop(0) if port.role == "input" else None
            if port.role == "parameter" or (port.role == "prepared" and name == "main"):
                given = held[port.name]
            region = guarded(port, self.edge, alignment=_alignment(port))
            self.regions.append(region)
            if given is not None:
                ctypes.memmove(region.start, address(given), region.size)
            region.protect(read_only=given is not None)
            frame.point(start, region.start)
            if port.role == "prepared" and name == "prepare":
                held[port.name] = region.array()
            if port.role in ("output", "mutates"):
                results.append(region)
        self.executable._run(self.executable._code.entry(name), frame)
        return results


def _alignment(port: Port) -> int:
    """What the runtime promises of the address: cache lines of its own memory, else elements."""
    return ALIGNMENT if port.role in ("arena", "prepared") else port.numpy.alignment


def call_guarded(
    executable: Executable, *arrays: Any, edge: Edge, limits: Limits | None = None
) -> list[np.ndarray]:
    """The results of a call with guarded arrays, in the order of ``outputs``, as numpy arrays.

    ``arrays``: contiguous, of the shapes and types of ``inputs``. Raises ``ExecutionError`` that
    names the array beyond which the code reads or writes. Needs Linux.
    """
    for port, array in zip(executable.inputs, arrays, strict=True):
        if tuple(array.shape) != port.shape or array.nbytes != port.nbytes:
            raise ExecutionError(f"{port}: got an array of another shape or type")
    call = _Call(executable, edge)

    def work(say: Say) -> bytes:
        handler = _tell_of_faults(call, say)
        results = call.run(arrays)
        del handler
        return b"".join(result.tobytes() for result in results)

    try:
        data = isolated(work, limits or Limits(seconds=600))
    except WorkerDied as death:
        if "beyond" in death.last:
            raise ExecutionError(f"the code reaches {death.last['beyond']}") from death
        raise
    outputs = [p for p in executable._layout.ports if p.role in ("output", "mutates")]
    results = []
    for port in outputs:
        results.append(np.frombuffer(data[: port.nbytes], port.numpy).reshape(port.shape))
        data = data[port.nbytes :]
    return results


def _tell_of_faults(call: _Call, say: Say) -> Callable:
    """Let the worker say which array a wrong access was near, before it ends.

    The handler is Python, which is not allowed in a handler of signals in general. It is here:
    the fault is in generated code, which holds no lock of Python's, and nothing goes on.
    """

    def on_fault(number: int, information: int, context: int) -> None:
        (where,) = struct.unpack("<Q", ctypes.string_at(information + _FAULT_ADDRESS, 8))
        for region in call.regions:
            if region.first <= where < region.last:
                say({"beyond": region.describe(where)})
        os.kill(os.getpid(), signal.SIGKILL)

    handler = _HANDLER(on_fault)
    # struct sigaction of Linux: handler, mask of 128 bytes, flags, restorer.
    pointer = ctypes.cast(handler, ctypes.c_void_p).value
    action = struct.pack("<Q128xixxxxQ", pointer, _SA_SIGINFO, 0)
    for number in (signal.SIGSEGV, signal.SIGBUS):
        process().sigaction(int(number), action, None)
    return handler
