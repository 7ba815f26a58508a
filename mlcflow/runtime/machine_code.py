"""From the LLVM dialect to machine code in this process, through MLIR's ExecutionEngine."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mlcflow.announce import MACHINE_CODE, entering
from mlcflow.errors import ExecutionError
from mlcflow.mlir import ExecutionEngine, ir, llvm, walk
from mlcflow.runtime import threads
from mlcflow.runtime.interface import Port, read_interface, read_threads
from mlcflow.runtime.libraries import load_symbols
from mlcflow.runtime.object_code import link_object
from mlcflow.runtime.stored import StoredProgram, libraries_of
from mlcflow.runtime.symbols import (
    ASSERTION_FAILED,
    external_symbols,
    is_in_process,
    process,
)

USE_THREADS = "mlcflow_use_threads"
"""Symbol of the function that says in how many threads parallel loops run."""

_TRANSLATED = ("llvm.", "omp.", "builtin.module")


def free(address: int) -> None:
    """Release memory that generated code allocated."""
    release = process().free
    release.argtypes, release.restype = [ctypes.c_void_p], None
    release(address)


class MachineCode:
    """Code in this process: of a module in the LLVM dialect, or of a program that was stored.

    ``opt_level``: LLVM's, 0 to 3, for a module. ``on_assertion`` is called with the number of
    an assertion that failed, ``on_error`` with what a library function written in Python
    raised. Raises ``ExecutionError`` when it calls functions that this process does not have,
    or when the module is not in the LLVM dialect.
    """

    def __init__(
        self,
        program: ir.Module | StoredProgram,
        opt_level: int,
        on_assertion: Callable[[int], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        if isinstance(program, StoredProgram):
            self._has_parallel_loops = program.is_parallel
            linked = link(program.symbols, on_assertion, on_error)
            exports = [f"_mlir_ciface_{name}" for name in program.functions]
            exports += [USE_THREADS] if program.is_parallel else []
            packed = {name: f"_mlir_{name}" for name in exports}  # takes an array of pointers
            find, self._owner = link_object(program.code, packed.values(), linked)
            self._lookup = lambda name: find(packed[name])
        else:
            self._has_parallel_loops = USE_THREADS in ir.SymbolTable(program.operation)
            linked = link(external_symbols(program), on_assertion, on_error)
            engine = _compile(program, opt_level, linked, dump=False)
            engine.initialize()
            self._lookup, self._owner = engine.raw_lookup, (engine, linked)

    def entry(self, name: str) -> Callable[[int], None]:
        """The packed entry of function ``name``: takes the address of an array of pointers."""
        address = self._lookup(f"_mlir_ciface_{name}")
        if not address:
            raise ExecutionError(f"the compiled module has no function '{name}'")
        return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)

    def use_threads(self, number: int) -> None:
        """Let parallel loops, if there are any, run in up to ``number`` threads."""
        if not self._has_parallel_loops:
            return
        several = number > 1 and threads.is_supported()
        count = ctypes.c_int32(number if several else 1)
        fork = ctypes.c_void_p(threads.fork_address() if several else None)
        arguments = (ctypes.c_void_p * 2)(ctypes.addressof(count), ctypes.addressof(fork))
        entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._lookup(USE_THREADS))
        entry(ctypes.addressof(arguments))


def _compile(
    module: ir.Module, opt_level: int, linked: dict[str, Any], *, dump: bool
) -> ExecutionEngine:
    # What LLVM's translation says of an operation would go to stderr; our error names it.
    entering(MACHINE_CODE, f"LLVM at level {opt_level}", module)
    handler = module.context.attach_diagnostic_handler(lambda diagnostic: True)
    try:
        engine = ExecutionEngine(module, opt_level=opt_level, enable_object_dump=dump)
    except RuntimeError as error:
        raise ExecutionError(_not_compiled(module, error)) from error
    finally:
        handler.detach()
    for name, function in linked.items():
        engine.raw_register_runtime(name, ctypes.cast(function, ctypes.c_void_p))
    return engine


def compile_object(module: ir.Module, opt_level: int) -> bytes:
    """The object file that LLVM makes of a module in the LLVM dialect.

    Raises ``ExecutionError`` like :class:`MachineCode`.
    """
    # What is never called must be there nevertheless.
    linked = link(external_symbols(module), lambda number: None, lambda error: None)
    engine = _compile(module, opt_level, linked, dump=True)
    # Code is generated when a symbol is first asked for.
    if not engine.raw_lookup("_mlir_ciface_main"):
        raise ExecutionError("LLVM could not compile the module: it has no code for @main")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.o"
        engine.dump_to_object_file(str(path))
        return path.read_bytes()


def describe(
    program: ir.Module | StoredProgram,
) -> tuple[Mapping[str, list[Port]], list[str], int]:
    """The ports of the entry functions, the messages of the assertions, the threads to use."""
    if isinstance(program, StoredProgram):
        return program.functions, program.messages, program.threads
    return *read_interface(program), read_threads(program)


def store(module: ir.Module, opt_level: int) -> StoredProgram:
    """A module in the LLVM dialect, compiled. Raises ``ExecutionError`` like ``MachineCode``."""
    functions, messages = read_interface(module)
    names = [
        ir.StringAttr(op.attributes["sym_name"]).value
        for op in module.body.operations
        if isinstance(op, llvm.LLVMFuncOp)
    ]
    return StoredProgram(
        functions=functions,
        messages=messages,
        threads=read_threads(module),
        is_parallel=USE_THREADS in names,
        symbols=external_symbols(module),
        libraries=libraries_of(names),
        verified=False,
        code=compile_object(module, opt_level),
    )


def _not_compiled(module: ir.Module, error: RuntimeError) -> str:
    """Why there is no machine code: mostly, operations that a pipeline has not lowered."""
    names = {op.operation.name for op in walk(module.operation)}
    left = sorted(name for name in names if not name.startswith(_TRANSLATED))
    if left:
        return f"the module is not lowered to the LLVM dialect: {', '.join(left)} remain"
    return f"LLVM could not compile the module: {error}"


def link(
    symbols: Iterable[str],
    on_assertion: Callable[[int], None],
    on_error: Callable[[BaseException], None],
) -> dict[str, Any]:
    """Those of ``symbols`` that the loader must be told of, as ctypes function pointers.

    The process has the others. Raises ``ExecutionError`` that lists those that nobody has.
    """
    found = load_symbols([name for name in symbols if not is_in_process(name)], on_error)
    if ASSERTION_FAILED in symbols:
        found[ASSERTION_FAILED] = ctypes.CFUNCTYPE(None, ctypes.c_int64)(on_assertion)
    missing = [name for name in symbols if name not in found and not is_in_process(name)]
    if missing:
        raise ExecutionError(
            f"the module calls functions that this process does not have: {', '.join(missing)}"
        )
    return found
