"""From an object file to code in this process, without MLIR, by the linker of llvmlite."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any

from mlcflow.errors import ExecutionError

_numbers = itertools.count()


def is_available() -> bool:
    """Whether llvmlite is installed, on a system where it was seen to link what LLVM makes."""
    return sys.platform == "linux" and find_spec("llvmlite") is not None


@cache
def _compiler() -> Any:
    """The linker, one for the process. Keeps what it loads for as long as someone holds it."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(jit=True)
    return binding.create_lljit_compiler(machine)


def host_processor() -> tuple[str, str]:
    """The name and the features of this processor, as LLVM finds them when it compiles."""
    from llvmlite import binding

    return binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()


def link_object(
    code: bytes, exports: Iterable[str], imports: Mapping[str, int]
) -> tuple[Callable[[str], int], Any]:
    """Load an object file.

    ``exports`` are the functions to be found in it; ``imports`` the addresses of those that it
    may call: it finds no others. Returns the address of an export by name, and what must be
    kept for as long as the code may run. Raises ``ExecutionError`` for an object that does not
    link.
    """
    from llvmlite import binding

    number = next(_numbers)
    offered = binding.JITLibraryBuilder()
    for name, address in imports.items():
        offered.import_symbol(name, address)
    # A library of its own: a program may have a function of the same name, and finds that.
    kept = offered.link(_compiler(), f"mlcflow{number}offered")
    builder = binding.JITLibraryBuilder().add_object_img(code)
    builder.add_jit_library(f"mlcflow{number}offered")
    for name in exports:
        builder.export_symbol(name)
    try:
        library = builder.link(_compiler(), f"mlcflow{number}")
    except RuntimeError as error:
        raise ExecutionError(f"the object file does not link: {error}") from error
    return library.__getitem__, (library, kept)
