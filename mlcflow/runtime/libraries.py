"""The library functions that kernels may call, by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mlcflow import plugins
from mlcflow.errors import MlcflowError, PluginError, unknown_name
from mlcflow.runtime import blas
from mlcflow.runtime.library import Library, OnError, make_library

LIBRARIES: dict[str, Library] = dict(blas.FUNCTIONS)
"""Ours, and those that this process made known by :func:`library`."""


def library(
    name: str, computes: str, function: Any, *, dtype: str = "float32", override: bool = False
) -> Library:
    """Make a function known as ``library:NAME``, for ``Schedule.tensorize``.

    ``computes``: a statement such as ``C[i, j] += A[i, k] * B[k, j]``, in the words of
    ``mlcflow.language``, over arrays of ``dtype``. ``function`` does that: a ctypes function
    pointer whose C type :class:`mlcflow.runtime.library.Library` gives, or a Python function
    that is called with numpy arrays and writes into the last one. ``override`` replaces one of
    the same name. Raises ``MlcflowError``.
    """
    if not override and (name in LIBRARIES or name in plugins.names("libraries")):
        raise MlcflowError(f"there is a library function '{name}'; override=True replaces it")
    LIBRARIES[name] = make_library(name, computes, function, dtype)
    return LIBRARIES[name]


def names() -> list[str]:
    """All names, those of other packages last."""
    return [*LIBRARIES, *(n for n in plugins.names("libraries") if n not in LIBRARIES)]


def find_library(name: str) -> Library:
    """The library function of that name. Raises ``MlcflowError`` with the near misses."""
    if name in LIBRARIES:
        return LIBRARIES[name]
    if name not in plugins.names("libraries"):
        raise MlcflowError(unknown_name("library function", name, names()))
    plugin = plugins.find("libraries", name, LIBRARIES)
    found = plugin.load()()
    if not isinstance(found, Library) or found.name != name:
        raise plugin.broken(f"expected a Library called '{name}', got {found!r}")
    return found


def load_symbols(symbols: Iterable[str], on_error: OnError) -> dict[str, Any]:
    """Those of ``symbols`` that library functions have, as ctypes function pointers.

    ``on_error`` receives what a function written in Python raises. Raises ``ExecutionError``
    when a function is not there.
    """
    wanted = set(symbols)
    found: dict[str, Any] = {}
    for name in names():
        if not wanted - set(found):
            break
        try:
            library = find_library(name)
        except PluginError:
            continue  # what needs it ends in an error that names the symbol
        for symbol in wanted.intersection(library.symbols):
            found[symbol] = library.load(symbol, on_error)
    return found
