"""Matrix products of a BLAS library, called through its C interface.

It is looked for when it is first needed: in the packages that bring one (numpy, scipy,
scipy-openblas, mkl), then where the system keeps its libraries.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mlcflow.errors import ExecutionError
from mlcflow.runtime.library import PREFIX, Library, OnError

_SYSTEM = ("openblas", "mkl_rt", "blis", "cblas", "Accelerate")
_PACKAGES = ("numpy", "scipy", "scipy_openblas64", "scipy_openblas32")
# How the builds spell cblas_sgemm, and the bits of their integers.
_SPELLINGS = (
    ("scipy_cblas_{}64_", 64),
    ("cblas_{}64_", 64),
    ("cblas_{}_64", 64),
    ("scipy_cblas_{}", 32),
    ("cblas_{}", 32),
)


@dataclass(frozen=True)
class Blas:
    """A BLAS library: where it is, how it spells ``cblas_{}``, the bits of its integers."""

    path: str
    library: ctypes.CDLL
    spelling: str
    bits: int


@cache
def find_blas() -> Blas | None:
    """The first BLAS library that there is; ``None`` if there is none."""
    for path in _paths():
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        for spelling, bits in _SPELLINGS:
            if hasattr(library, spelling.format("sgemm")):
                return Blas(path, library, spelling, bits)
    return None


def _paths() -> Iterator[str]:
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in spec.submodule_search_locations or () if spec else ():
            beside = Path(folder).with_name(f"{package}.libs")  # where wheels bring theirs
            for place in (beside, Path(folder) / "lib", Path(folder) / ".dylibs"):
                yield from sorted(str(path) for path in place.glob("*openblas*"))
    yield from sorted(str(path) for path in Path(sys.prefix, "lib").glob("libmkl_rt.*"))
    yield from filter(None, map(ctypes.util.find_library, _SYSTEM))


def _load(symbol: str, on_error: OnError) -> Any:
    found = find_blas()
    name, _, bits = symbol.removeprefix("mlcflow_").rpartition("_")
    if found is None:
        raise ExecutionError(
            f"the module calls {name}, and no BLAS library was found: install one, for instance "
            "pip install scipy-openblas64"
        )
    if found.bits != int(bits):
        raise ExecutionError(
            f"the module calls {name} with integers of {bits} bits, and the one in {found.path} "
            f"takes {found.bits}: compile it again"
        )
    function: Any = getattr(found.library, found.spelling.format(name.removeprefix("cblas_")))
    return function


def _adapter(name: str, function: str, element: str, transposed: bool) -> str:
    """``@library_NAME`` as a call of ``cblas_?gemm``.

    Rows of operands are contiguous; the leading dimension of a single row may be anything,
    but BLAS insists on the length of the row.
    """
    found = find_blas()
    bits = found.bits if found else 64
    integer, symbol = f"i{bits}", f"mlcflow_{function}_{bits}"
    kind = f"memref<?x?x{element}, strided<[?, 1], offset: ?>>"
    types = (
        f"i32, i32, i32, {integer}, {integer}, {integer}, {element}, !llvm.ptr, {integer}, "
        f"!llvm.ptr, {integer}, {element}, !llvm.ptr, {integer}"
    )
    text = [
        f"func.func private @{PREFIX}{name}(%a: {kind}, %b: {kind}, %c: {kind}) {{",
        "  %0 = arith.constant 0 : index",
        "  %1 = arith.constant 1 : index",
        f"  %one = arith.constant 1.0 : {element}",
        "  %row_major = arith.constant 101 : i32",
        "  %as_it_is = arith.constant 111 : i32",
        f"  %b_is = arith.constant {112 if transposed else 111} : i32",
    ]
    sizes = {"m": ("c", 0), "n": ("c", 1), "k": ("b", 1 if transposed else 0)}
    for size, (x, dimension) in sizes.items():
        text += [
            f"  %{size}_ = memref.dim %{x}, %{dimension} : {kind}",
            f"  %{size} = arith.index_cast %{size}_ : index to {integer}",
        ]
    for x in "abc":
        text += _operand(x, kind, element, integer)
    text += [
        f"  func.call @{symbol}(%row_major, %as_it_is, %b_is, %m, %n, %k, %one, "
        f"%a_data, %lda, %b_data, %ldb, %one, %c_data, %ldc) : ({types}) -> ()",
        "  return",
        "}",
        f"func.func private @{symbol}({types})",
    ]
    return "\n".join(text)


def _operand(x: str, kind: str, element: str, integer: str) -> list[str]:
    """The address ``%x_data`` and the leading dimension ``%ldx`` of the matrix ``%x``."""
    return [
        f"  %{x}_base, %{x}_offset, %{x}_sizes:2, %{x}_strides:2 = memref.extract_strided_metadata"
        f" %{x} : {kind} -> memref<{element}>, index, index, index, index, index",
        f"  %{x}_ld = arith.maxsi %{x}_strides#0, %{x}_sizes#1 : index",
        f"  %ld{x} = arith.index_cast %{x}_ld : index to {integer}",
        f"  %{x}_start = memref.extract_aligned_pointer_as_index %{x} : {kind} -> index",
        f"  %{x}_size = arith.constant {int(element[1:]) // 8} : index",
        f"  %{x}_bytes = arith.muli %{x}_offset, %{x}_size : index",
        f"  %{x}_first = arith.addi %{x}_start, %{x}_bytes : index",
        f"  %{x}_i64 = arith.index_cast %{x}_first : index to i64",
        f"  %{x}_data = llvm.inttoptr %{x}_i64 : i64 to !llvm.ptr",
    ]


def _product(name: str, function: str, dtype: str, element: str, transposed: bool) -> Library:
    return Library(
        name,
        f"C[i, j] += A[i, k] * B[{'j, k' if transposed else 'k, j'}]",
        dtype,
        (f"mlcflow_{function}_64", f"mlcflow_{function}_32"),
        _load,
        unit_stride=True,
        adapter=lambda: _adapter(name, function, element, transposed),
    )


FUNCTIONS = {
    library.name: library
    for library in (
        _product("sgemm", "cblas_sgemm", "float32", "f32", False),
        _product("sgemm_nt", "cblas_sgemm", "float32", "f32", True),
        _product("dgemm", "cblas_dgemm", "float64", "f64", False),
        _product("dgemm_nt", "cblas_dgemm", "float64", "f64", True),
    )
}
"""``_nt``: the second matrix transposed, as PyTorch keeps the weights of a linear layer."""
