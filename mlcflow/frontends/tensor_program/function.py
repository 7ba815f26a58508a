"""Tensor functions: Python that is compiled, from a decorator, a text or one line."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mlcflow import mlir
from mlcflow.errors import MlcflowError
from mlcflow.frontends import Imported
from mlcflow.frontends.tensor_program.emit import emit_module
from mlcflow.frontends.tensor_program.parse import parse_function, parse_source
from mlcflow.frontends.tensor_program.tree import Program
from mlcflow.mlir import ir

if TYPE_CHECKING:
    from mlcflow.runtime.executable import Executable


@dataclass(frozen=True, eq=False)
class TensorFunction:
    """A Python function over tensors, as loop nests.

    ``program`` is what it means, ``source`` how it is written, ``python`` the function itself,
    which runs on numpy arrays, slowly (``None`` when it was given as text). Called with arrays,
    it is compiled for the host on the first call; ``mlcflow.compile(function, ...)`` chooses
    pipeline and target.
    """

    program: Program
    source: str
    python: Callable[..., Any] | None = None

    @property
    def name(self) -> str:
        """The name of the Python function."""
        return self.program.name

    @cached_property
    def _module(self) -> ir.Module:
        return emit_module(self.program)

    @property
    def module(self) -> ir.Module:
        """A new module with the function as ``@main``: linalg on tensors.

        Each access gives another copy, so that a schedule may change the one it has.
        """
        return mlir.clone(self._module)

    def imported(self) -> Imported:
        """The function as it enters a pipeline; arguments may be passed by name."""
        return Imported(self.module, flatten=self._flatten)

    def _flatten(self, args: tuple, kwargs: dict[str, Any]) -> list:
        parameter = inspect.Parameter
        names = [parameter(n, parameter.POSITIONAL_OR_KEYWORD) for n in self.program.arguments]
        return list(inspect.Signature(names).bind(*args, **kwargs).arguments.values())

    @cached_property
    def _executable(self) -> Executable:
        from mlcflow.compiler import compile

        return compile(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function on numpy arrays or torch tensors; compiles it on the first call."""
        return self._executable(*args, **kwargs)

    def __repr__(self) -> str:
        inputs = ", ".join(f"{name}: {kind}" for name, kind in self.program.arguments.items())
        results = ", ".join(str(self.program.buffers[name]) for name in self.program.results)
        return f"<tensor function {self.name}({inputs}) -> {results}>"


def tensor_function(function: Callable[..., Any]) -> TensorFunction:
    """Make a tensor function of a Python function, from its source; the decorator.

    Arguments are annotated with ``Tensor(shape, dtype)`` and read only; the body is loops that
    read and write elements, and returns buffers made with ``empty``. The words are those of
    ``mlcflow.language``. Raises ``ImportModelError`` with every problem, its file and line.

    ::

        @tensor_function
        def add(A: Tensor((16,), "float32"), B: Tensor((16,), "float32")):
            C = empty((16,), "float32")
            for i in spatial(16):
                C[i] = A[i] + B[i]
            return C
    """
    # Annotations may use names of the defining function that the body does not.
    caller = sys._getframe(1)
    local = {} if caller.f_locals is caller.f_globals else caller.f_locals
    program, source = parse_function(function, local)
    return TensorFunction(program, source.text, function)


def from_python(text: str, *, file: str = "<tensor function>") -> TensorFunction:
    """The tensor function that a Python text defines; nothing of the text is executed.

    The text may import ``mlcflow`` and ``mlcflow.language``, bind numbers to names, and define
    one function. ``file`` names it in errors. Raises ``ImportModelError``.
    """
    program, source = parse_source(text, file)
    return TensorFunction(program, source.text)


def import_tensor_function(function: TensorFunction, args: tuple) -> Imported:
    """The tensor function as a model. Raises ``MlcflowError`` when arrays come with it."""
    if args:
        raise MlcflowError(
            f"tensor function '{function.name}': shapes are part of it; expected no example "
            f"inputs, got {len(args)}"
        )
    return function.imported()
