"""What compiled code may be linked with, unless its source is trusted.

MLIR text can declare any C function, ``@system`` among them, and the loader would find it in the
process. Code may call the functions listed here, which compute on numbers or manage the memory
that it was given, and library functions that somebody has made known (``mlcflow.library``).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
from collections.abc import Iterable
from functools import cache
from itertools import product
from typing import Any

from mlcflow.errors import ExecutionError, PluginError
from mlcflow.mlir import ir, llvm, walk
from mlcflow.runtime import libraries

ASSERTION_FAILED = "mlcflow_assertion_failed"
"""Symbol that generated code calls with the number of an assertion that does not hold."""

_REAL = """acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp10
exp2 expm1 fabs fdim floor fma fmax fmin fmod hypot ilogb ldexp lgamma llrint llround log log10
log1p log2 logb lrint lround nearbyint nextafter pow powi remainder rint round roundeven scalbn sin
sinh sqrt tan tanh tgamma trunc"""
_COMPLEX = """cabs cacos cacosh carg casin casinh catan catanh ccos ccosh cexp cimag clog conj cpow
creal csin csinh csqrt ctan ctanh"""

MATH = frozenset(
    name + suffix for name in f"{_REAL} {_COMPLEX}".split() for suffix in ("", "f", "l")
)
"""Functions of numbers alone, of the C library of mathematics."""

_POINTERS = frozenset(name + s for name in ("frexp", "modf", "sincos") for s in ("", "f", "l"))
_BYTES = "bcmp memcmp memcpy memmove memset memset_pattern16"
_MEMORY = frozenset(f"abort aligned_alloc free malloc {_BYTES}".split())
_FLOATS, _INTEGERS = ("bf", "hf", "sf", "df", "xf", "tf"), ("si", "di", "ti")


def _conversions() -> set[str]:
    """The functions for what a processor lacks, of libgcc and of compiler-rt."""
    found = {"__gnu_f2h_ieee", "__gnu_h2f_ieee"}
    found |= {f"__{kind}{a}{b}2" for kind in ("extend", "trunc") for a, b in
              product(_FLOATS, _FLOATS) if a != b}  # fmt: skip
    found |= {f"__fix{u}{a}{b}" for u in ("", "uns") for a, b in product(_FLOATS, _INTEGERS)}
    found |= {f"__float{u}{b}{a}" for u in ("", "un") for a, b in product(_FLOATS, _INTEGERS)}
    integer = ("ashl", "ashr", "lshr", "div", "udiv", "mod", "umod", "mul", "divmod", "udivmod")
    found |= {f"__{name}{a}{n}" for name in integer for a in _INTEGERS for n in (3, 4)}
    found |= {f"__{name}{a}2" for name in ("clz", "ctz", "popcount", "bswap") for a in _INTEGERS}
    found |= {f"__powi{a}2" for a in _FLOATS}
    found |= {f"__{name}{a}c3" for name in ("mul", "div") for a in "hsdxt"}
    arithmetic = ("add", "sub", "mul", "div")
    return found | {f"__{name}{a}3" for name in arithmetic for a in ("sf", "df", "tf")}


STANDARD = MATH | _POINTERS | _MEMORY | _conversions() | {"_GLOBAL_OFFSET_TABLE_"}
"""All that code may call without being told: also what LLVM itself makes calls of."""

_INTRINSICS = (
    "llvm.x86.avx",
    "llvm.x86.sse",
    "llvm.x86.fma",
    "llvm.x86.rdtsc",
    "llvm.aarch64.neon",
)
_OPERATIONS = {
    "llvm.inline_asm": "machine instructions",
    "llvm.mlir.global_ctors": "code that runs when it is loaded",
    "llvm.mlir.global_dtors": "code that runs when it is unloaded",
    "llvm.mlir.ifunc": "code that runs when it is loaded",
    "llvm.linker_options": "words for a linker",
}
_OF_MODULE = ("llvm.module_asm", "llvm.dependent_libraries")

_COMPILER_RUNTIMES = ("gcc_s", "clang_rt.builtins")


@cache
def process() -> ctypes.CDLL:
    """The symbols of this process: the C library, its mathematics."""
    return ctypes.CDLL("msvcrt") if sys.platform == "win32" else ctypes.CDLL(None)


@cache
def compiler_runtime() -> ctypes.CDLL | None:
    """The library of conversions that processors lack, such as ``__truncdfhf2``."""
    for name in _COMPILER_RUNTIMES:
        path = ctypes.util.find_library(name)
        if path:
            return ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    return None


def is_in_process(name: str) -> bool:
    """Whether the process can resolve ``name``; loads the compiler's runtime if it must."""
    if hasattr(process(), name):
        return True
    runtime = compiler_runtime()
    return runtime is not None and hasattr(runtime, name)


def external_symbols(module: ir.Module) -> list[str]:
    """The C functions that a module in the LLVM dialect calls and does not define."""
    return [name for name in _declared(module, llvm.LLVMFuncOp) if not name.startswith("llvm.")]


def refuse_symbols(symbols: Iterable[str]) -> None:
    """Raise ``ExecutionError`` that lists those of ``symbols`` that code may not call."""
    wrong = sorted(set(symbols) - STANDARD - {ASSERTION_FAILED})
    wrong = sorted(set(wrong) - _library_symbols()) if wrong else []
    if wrong:
        raise ExecutionError(
            f"the module calls C functions that are not allowed: {', '.join(wrong)}; make them "
            "known with mlcflow.library, or pass trusted=True (--trusted) if you know who wrote "
            "the module"
        )


def refuse_module(module: ir.Module) -> None:
    """Raise ``ExecutionError`` for what a module in the LLVM dialect must not hold.

    That is: C functions and variables that are not allowed, and all with which code could get
    at them or at the processor by other ways.
    """
    refuse_symbols([*external_symbols(module), *_declared(module, llvm.GlobalOp)])
    found = [f"the attribute {name}" for name in _OF_MODULE if name in module.operation.attributes]
    for op in walk(module.operation):
        name = op.operation.name
        if name in _OPERATIONS:
            found.append(f"{name} ({_OPERATIONS[name]})")
        elif name == "llvm.call_intrinsic":
            intrinsic = ir.StringAttr(op.attributes["intrin"]).value
            if not intrinsic.startswith(_INTRINSICS):
                found.append(f"the intrinsic {intrinsic}")
        elif name == "llvm.func" and "passthrough" in op.attributes:
            found.append("attributes of functions for LLVM alone (passthrough)")
    if found:
        raise ExecutionError(
            f"the module holds what is not allowed: {', '.join(dict.fromkeys(found))}; pass "
            "trusted=True (--trusted) if you know who wrote it"
        )


def _declared(module: ir.Module, kind: Any) -> list[str]:
    """The names of the functions, or of the variables, that the module does not define."""
    return [
        ir.StringAttr(op.attributes["sym_name"]).value
        for op in module.body.operations
        if isinstance(op, kind)
        and "value" not in op.attributes
        and not any(region.blocks for region in op.operation.regions)
    ]


def _library_symbols() -> set[str]:
    """The C functions that library functions consist of."""
    found: set[str] = set()
    for name in libraries.names():
        try:
            found.update(libraries.find_library(name).symbols)
        except PluginError:
            continue  # what needs it is refused, by name
    return found
