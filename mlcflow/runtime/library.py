"""A function of a library: what it computes, how C calls it, where it is."""

from __future__ import annotations

import ast
import ctypes
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mlcflow.errors import MlcflowError
from mlcflow.runtime.dtypes import NUMPY

OnError = Callable[[BaseException], None]
"""Receives what a Python function raised while generated code was calling it."""

_POINTER: type = ctypes.CFUNCTYPE(None).__mro__[1]
"""The class of all function pointers of ctypes."""

PREFIX = "library_"
"""What the names of library functions begin with in a module."""


@dataclass(frozen=True)
class Library:
    """A function of a library that a kernel may call, in destination-passing form.

    ``computes`` says what of, as one statement over arrays of ``dtype``, such as
    ``C[i, j] += A[i, k] * B[k, j]``; the function takes the arrays that the statement reads, in
    that order, then the one it writes. ``symbols`` are the C functions it consists of;
    ``load(symbol, on_error)`` gives each as a ctypes function pointer when code that calls it is
    loaded, and raises ``ExecutionError`` when it is not there. ``unit_stride``: the elements of
    a row must lie side by side. ``adapter`` gives the MLIR text of the function
    ``@library_NAME`` where the C function has another form than the one below.

    The C form is that of MLIR's C interface: a pointer to a descriptor for each array. For the
    statement above, the symbol is ``_mlir_ciface_library_NAME`` and its type::

        struct array { float *allocated, *aligned; int64_t offset, sizes[2], strides[2]; };
        void function(struct array *a, struct array *b, struct array *c);

    Element ``[i][j]`` is ``aligned[offset + i * strides[0] + j * strides[1]]``. A function whose
    every loop writes another element may be given an input as its destination.
    """

    name: str
    computes: str
    dtype: str
    symbols: tuple[str, ...]
    load: Callable[[str, OnError], Any]
    unit_stride: bool = False
    adapter: Callable[[], str] | None = None

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise MlcflowError(f"name of a library function: expected a word, got {self.name!r}")
        if self.dtype not in NUMPY:
            raise MlcflowError(f"library function '{self.name}': unknown dtype {self.dtype!r}")
        self.arrays  # noqa: B018  raises if the statement is not understood

    @property
    def symbol(self) -> str:
        """Its name in a module."""
        return f"{PREFIX}{self.name}"

    @cached_property
    def arrays(self) -> dict[str, tuple[str, ...]]:
        """The arrays in the order of the arguments, the destination last, with their indices."""
        try:
            [node] = ast.parse(self.computes).body
        except (SyntaxError, ValueError):
            raise self._unclear() from None
        if not isinstance(node, ast.AugAssign | ast.Assign):
            raise self._unclear()
        targets = [node.target] if isinstance(node, ast.AugAssign) else node.targets
        if len(targets) != 1:
            raise self._unclear()
        destination, indices = self._access(targets[0])
        found: dict[str, tuple[str, ...]] = {}
        reads = [each for each in ast.walk(node.value) if isinstance(each, ast.Subscript)]
        for read in sorted(reads, key=lambda each: each.col_offset):
            name, read_indices = self._access(read)
            if found.setdefault(name, read_indices) != read_indices:
                raise self._unclear()
        found.pop(destination, None)
        return found | {destination: indices}

    def _access(self, node: ast.expr) -> tuple[str, tuple[str, ...]]:
        if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Name):
            raise self._unclear()
        items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        names = [item.id for item in items if isinstance(item, ast.Name)]
        if len(names) != len(items) or len(set(names)) != len(names):
            raise self._unclear()
        return node.value.id, tuple(names)

    def _unclear(self) -> MlcflowError:
        return MlcflowError(
            f"library function '{self.name}': expected one statement over elements whose "
            "indices are names, such as 'C[i, j] += A[i, k] * B[k, j]', each array read with "
            f"the same indices everywhere; got {self.computes!r}"
        )


def make_library(name: str, computes: str, function: Any, dtype: str) -> Library:
    """The library function that a ctypes function pointer or a Python function is."""
    symbol = f"_mlir_ciface_{PREFIX}{name}"
    if isinstance(function, _POINTER):
        return Library(name, computes, dtype, (symbol,), lambda symbol, on_error: function)
    if not callable(function):
        raise MlcflowError(
            f"library function '{name}': expected a ctypes function pointer or a Python "
            f"function of numpy arrays, got {type(function).__name__}"
        )

    def load(symbol: str, on_error: OnError) -> Any:
        return _callback(function, made, on_error)

    made = Library(name, computes, dtype, (symbol,), load)
    _check_parameters(function, made)
    return made


def _check_parameters(function: Callable[..., Any], library: Library) -> None:
    try:
        inspect.signature(function).bind(*library.arrays)
    except TypeError as error:
        raise MlcflowError(
            f"library function '{library.name}': the Python function is called with "
            f"({', '.join(library.arrays)}), which it does not take: {error}"
        ) from error
    except ValueError:
        pass  # written in C, it does not tell


def _callback(function: Callable[..., Any], library: Library, on_error: OnError) -> Any:
    """A C function that calls ``function`` with numpy arrays over the memory it is given."""
    ranks = [len(indices) for indices in library.arrays.values()]
    dtype = NUMPY[library.dtype]

    def call(*pointers: int) -> None:
        try:
            arrays = [_array(p, rank, dtype) for p, rank in zip(pointers, ranks, strict=True)]
            for array in arrays[:-1]:
                array.flags.writeable = False
            function(*arrays)
        except BaseException as error:  # it cannot pass through generated code
            on_error(error)

    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(ranks))(call)


def _array(descriptor: int, rank: int, dtype: np.dtype) -> np.ndarray:
    """The array that an MLIR descriptor describes, over its memory."""
    words = (ctypes.c_int64 * (3 + 2 * rank)).from_address(descriptor)
    pointer, offset = words[1], words[2]
    sizes, strides = tuple(words[3 : 3 + rank]), words[3 + rank :]
    if not math.prod(sizes):
        return np.empty(sizes, dtype)
    extent = sum((n - 1) * step for n, step in zip(sizes, strides, strict=True)) + 1
    start = pointer + offset * dtype.itemsize
    memory = memoryview((ctypes.c_char * (extent * dtype.itemsize)).from_address(start))
    steps = [step * dtype.itemsize for step in strides]
    raw = np.frombuffer(memory, dtype)
    return np.lib.stride_tricks.as_strided(raw, sizes, steps)
