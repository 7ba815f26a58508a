"""The threads of this process that run parallel loops, shared by all executables.

They are written in MLIR, in ``threads.mlir``, which says how they work; compiled once, when
the first executable asks for more than one thread.
"""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache, partial
from pathlib import Path

from mlcflow import mlir
from mlcflow.mlir import ExecutionEngine, ir, walk
from mlcflow.passes import Pass

_SOURCE = Path(__file__).with_name("threads.mlir")
_LOWERING = (
    Pass("convert-scf-to-cf"),
    Pass("convert-arith-to-llvm"),
    Pass("convert-index-to-llvm"),
    Pass("convert-cf-to-llvm"),
    Pass("reconcile-unrealized-casts"),
)


def is_supported() -> bool:
    """Whether this system has the POSIX threads that the workers are made of."""
    return os.name == "posix"


@cache
def fork_address() -> int:
    """Where the function ``mlcflow_fork`` lies; see ``threads.mlir``."""
    module = mlir.parse_file(_SOURCE)
    with module.context, ir.Location.unknown():
        if platform.machine() not in ("x86_64", "AMD64"):
            _drop_intrinsics(module)
        for step in _LOWERING:
            step(module)
    engine = ExecutionEngine(module, opt_level=2, enable_object_dump=False)
    engine.initialize()
    # Workers sleep in this code until the process ends: it must outlive the interpreter.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))
    entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    reset = partial(entry(engine.raw_lookup("mlcflow_reset")), None)
    reset()
    os.register_at_fork(after_in_child=reset)  # which has one thread
    result = ctypes.c_void_p()
    results = (ctypes.c_void_p * 1)(ctypes.addressof(result))
    entry(engine.raw_lookup("mlcflow_fork_address"))(ctypes.addressof(results))
    return result.value or 0


def _drop_intrinsics(module: ir.Module) -> None:
    """Remove what only x86 has: a hint that a loop waits, and the mode of its floating point."""
    for op in walk(module.operation):
        if op.operation.name == "llvm.call_intrinsic":
            op.operation.erase()
