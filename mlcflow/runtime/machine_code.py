"""From the LLVM dialect to machine code in this process, through MLIR's ExecutionEngine."""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from mlcflow.errors import ExecutionError
from mlcflow.mlir import ExecutionEngine, ir, llvm, walk

ASSERTION_FAILED = "mlcflow_assertion_failed"
"""Symbol that generated code calls with the number of an assertion that does not hold."""

_TRANSLATED = ("llvm.", "omp.", "builtin.module")
_COMPILER_RUNTIMES = ("gcc_s", "clang_rt.builtins")


@cache
def _process() -> ctypes.CDLL:
    """The symbols of this process: the C library, its mathematics."""
    return ctypes.CDLL("msvcrt") if sys.platform == "win32" else ctypes.CDLL(None)


@cache
def _compiler_runtime() -> ctypes.CDLL | None:
    """The library of conversions that processors lack, such as ``__truncdfhf2``."""
    for name in _COMPILER_RUNTIMES:
        path = ctypes.util.find_library(name)
        if path:
            return ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    return None


def free(address: int) -> None:
    """Release memory that generated code allocated."""
    release = _process().free
    release.argtypes, release.restype = [ctypes.c_void_p], None
    release(address)


class MachineCode:
    """A module in the LLVM dialect, compiled.

    ``opt_level``: LLVM's, 0 to 3. ``on_assertion`` is called with the number of an assertion
    of the module that failed. Raises ``ExecutionError`` when the module calls functions that
    this process does not have, or is not in the LLVM dialect.
    """

    def __init__(
        self, module: ir.Module, opt_level: int, on_assertion: Callable[[int], None]
    ) -> None:
        _check_symbols(module)
        # What LLVM's translation says of an operation would go to stderr; our error names it.
        handler = module.context.attach_diagnostic_handler(lambda diagnostic: True)
        try:
            self._engine = ExecutionEngine(module, opt_level=opt_level, enable_object_dump=False)
        except RuntimeError as error:
            raise ExecutionError(_not_compiled(module, error)) from error
        finally:
            handler.detach()
        self._callback = ctypes.CFUNCTYPE(None, ctypes.c_int64)(on_assertion)
        address = ctypes.cast(self._callback, ctypes.c_void_p)
        self._engine.raw_register_runtime(ASSERTION_FAILED, address)
        self._engine.initialize()

    def entry(self, name: str) -> Callable[[int], None]:
        """The packed entry of function ``name``: takes the address of an array of pointers."""
        address = self._engine.raw_lookup(f"_mlir_ciface_{name}")
        if not address:
            raise ExecutionError(f"the compiled module has no function '{name}'")
        return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)


def compile_object(module: ir.Module, opt_level: int) -> bytes:
    """The object file that LLVM makes of a module in the LLVM dialect.

    Compiles anew: to keep the objects of all code that is loaded would double its memory.
    """
    engine = ExecutionEngine(module, opt_level=opt_level, enable_object_dump=True)
    never_called = ctypes.CFUNCTYPE(None, ctypes.c_int64)(lambda number: None)
    engine.raw_register_runtime(ASSERTION_FAILED, ctypes.cast(never_called, ctypes.c_void_p))
    # Code is generated when a symbol is first asked for.
    engine.raw_lookup("_mlir_ciface_main")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.o"
        engine.dump_to_object_file(str(path))
        return path.read_bytes()


def _not_compiled(module: ir.Module, error: RuntimeError) -> str:
    """Why there is no machine code: mostly, operations that a pipeline has not lowered."""
    names = {op.operation.name for op in walk(module.operation)}
    left = sorted(name for name in names if not name.startswith(_TRANSLATED))
    if left:
        return f"the module is not lowered to the LLVM dialect: {', '.join(left)} remain"
    return f"LLVM could not compile the module: {error}"


def _check_symbols(module: ir.Module) -> None:
    missing = []
    for op in module.body.operations:
        if isinstance(op, llvm.LLVMFuncOp) and not op.body.blocks:
            name = ir.StringAttr(op.attributes["sym_name"]).value
            if name != ASSERTION_FAILED and not name.startswith("llvm.") and not _has(name):
                missing.append(name)
    if missing:
        raise ExecutionError(
            f"the module calls functions that this process does not have: {', '.join(missing)}"
        )


def _has(name: str) -> bool:
    """Whether the process can resolve ``name``; loads the compiler's runtime if it must."""
    if hasattr(_process(), name):
        return True
    runtime = _compiler_runtime()
    return runtime is not None and hasattr(runtime, name)
