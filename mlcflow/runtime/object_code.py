"""From an object file to code in this process, without MLIR, by the linker of llvmlite."""

from __future__ import annotations

import ctypes
import itertools
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any

from mlcflow.errors import ExecutionError

_numbers = itertools.count()

# The parts of an ELF file, as the System V ABI has them.
_OFFSET, _PAIR = struct.Struct("<Q"), struct.Struct("<2H")
_SECTION, _SYMBOL = struct.Struct("<IIQQQQIIQQ"), struct.Struct("<IBBHQQ")
_SYMBOLS, _UNDEFINED = 2, 0


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


def undefined_symbols(code: bytes) -> list[str]:
    """What an ELF object file takes from elsewhere, by name; nothing for another format.

    Raises ``ExecutionError`` for a file that is cut short.
    """
    if code[:6] != b"\x7fELF\x02\x01":  # 64 bits, little-endian
        return []
    try:
        (start,), (size, count) = _OFFSET.unpack_from(code, 0x28), _PAIR.unpack_from(code, 0x3A)
        sections = [_SECTION.unpack_from(code, start + size * n) for n in range(count)]
        found = []
        for _, kind, _, _, offset, length, link, _, _, entry in sections:
            if kind != _SYMBOLS:
                continue
            _, _, _, _, names, names_size, _, _, _, _ = sections[link]
            text = code[names : names + names_size]
            for place in range(offset, offset + length, entry):
                name, _, _, section, _, _ = _SYMBOL.unpack_from(code, place)
                if section == _UNDEFINED and name:
                    found.append(text[name : text.index(b"\0", name)].decode())
        return found
    except (struct.error, IndexError, ValueError) as error:
        raise ExecutionError(f"the object file is damaged: {error}") from error


def link_object(
    code: bytes, exports: Iterable[str], imports: Mapping[str, Any]
) -> tuple[Callable[[str], int], Any]:
    """Load an object file.

    ``exports`` are the functions to be found in it; ``imports`` those that it calls and the
    process does not have, as ctypes function pointers. Returns the address of an export by
    name, and what must be kept for as long as the code may run. Raises ``ExecutionError`` for
    an object that does not link.
    """
    from llvmlite import binding

    builder = binding.JITLibraryBuilder().add_object_img(code).add_current_process()
    for name in exports:
        builder.export_symbol(name)
    for name, function in imports.items():
        builder.import_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)
    try:
        library = builder.link(_compiler(), f"mlcflow{next(_numbers)}")
    except RuntimeError as error:
        raise ExecutionError(f"the object file does not link: {error}") from error
    return library.__getitem__, (library, imports)
