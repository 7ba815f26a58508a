"""The words of tensor programs: what a tensor function is written with.

Import it as ``from mlcflow import language as T``. In a tensor function these names are read
from the source and become linalg. They also work as plain Python on numpy arrays, so that the
same function, uncompiled, is its own slow reference (``function.python(...)``).

Loops
    ``grid``, ``spatial``, ``reduce``, and Python's ``range``.
Buffers
    ``Tensor`` (the type of an argument), ``empty``, ``init``.
Elements
    ``exp`` and the other functions below, ``maximum``, ``minimum``, ``abs``, ``pow``,
    ``select``, ``cast``, Python's operators, comparisons and conditional expressions.
"""

from __future__ import annotations

import builtins
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from mlcflow.errors import MlcflowError, unknown_name
from mlcflow.frontends.tensor_program.tree import Size, Symbol, TensorType
from mlcflow.runtime.dtypes import NUMPY


class Tensor:
    """The type of an argument: ``Tensor((128, "n"), "float32")``; square brackets do as well.

    A size is a positive integer, or a name for a size known at run time only. The element type
    is a name, or a numpy type such as ``np.float32``.
    """

    def __new__(cls, shape: Any, dtype: Any) -> TensorType:  # type: ignore[misc]
        """Raises ``MlcflowError`` for a size or element type that it does not know."""
        return tensor_type(shape, dtype)

    def __class_getitem__(cls, parameters: Any) -> TensorType:
        if not isinstance(parameters, tuple) or len(parameters) != 2:
            raise MlcflowError(f"expected Tensor[shape, dtype], got Tensor[{parameters!r}]")
        return tensor_type(*parameters)


def tensor_type(shape: Any, dtype: Any) -> TensorType:
    """The tensor type of that shape (sizes and names) and element type."""
    sizes = [shape] if isinstance(shape, int | str | Symbol) else list(shape)
    return TensorType(tuple(_size(size) for size in sizes), dtype_name(dtype))


def _size(size: Any) -> Size:
    if isinstance(size, Symbol):
        return size
    if isinstance(size, str) and size.isidentifier():
        return Symbol(size)
    if isinstance(size, int | np.integer) and not isinstance(size, bool) and size > 0:
        return int(size)
    raise MlcflowError(f"expected a positive size or a name for one, got {size!r}")


def dtype_name(dtype: Any) -> str:
    """The name of an element type given as a name or a numpy type. Raises ``MlcflowError``."""
    try:
        name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    except TypeError:
        name = repr(dtype)
    known = [name for name in NUMPY if not name.startswith("complex")]
    if name not in known:
        raise MlcflowError(unknown_name("element type", name, known))
    return name


def spatial(extent: int) -> range:
    """A loop that chooses the element to write: its variable indexes what is written."""
    return range(extent)


def reduce(extent: int) -> range:
    """A loop over which values are accumulated into one element."""
    return range(extent)


def grid(*extents: int | range) -> Iterator[Any]:
    """Nested loops, outermost first; each extent a size, ``spatial(n)`` or ``reduce(n)``."""
    axes: list[Iterable[int]] = [e if isinstance(e, range) else range(e) for e in extents]
    return iter(axes[0]) if len(axes) == 1 else itertools.product(*axes)


def empty(shape: Any, dtype: Any) -> np.ndarray:
    """A buffer of a shape and element type; every element must be written before it is read."""
    sizes = [shape] if isinstance(shape, int) else list(shape)
    return np.zeros(sizes, NUMPY[dtype_name(dtype)])


def init() -> AbstractContextManager[None]:
    """``with init():`` within reduction loops, what an element is before the first of them."""
    raise MlcflowError(
        "init() has no meaning in plain Python; write the first value before the loop"
    )


def select(condition: Any, yes: Any, no: Any) -> Any:
    """``yes`` where the condition holds, else ``no``; both are computed."""
    return yes if condition else no


def cast(value: Any, dtype: Any) -> Any:
    """``value`` as another element type; towards integers it is cut off, not rounded."""
    return NUMPY[dtype_name(dtype)].type(value)


def _scalar(function: Callable[..., Any], name: str, text: str) -> Callable[..., Any]:
    """``function`` on scalars of numpy, which keeps a number of Python one of Python."""

    def apply(*values: Any) -> Any:
        result = function(*values)
        weak = all(isinstance(v, int | float) and not isinstance(v, np.generic) for v in values)
        return result.item() if weak and isinstance(result, np.generic) else result

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = text
    return apply


def _erf(value: Any) -> Any:
    return np.asarray(math.erf(value)).astype(getattr(value, "dtype", np.float64))[()]


exp = _scalar(np.exp, "exp", "e to the power of a value.")
exp2 = _scalar(np.exp2, "exp2", "2 to the power of a value.")
expm1 = _scalar(np.expm1, "expm1", "e to the power of a value, minus 1.")
log = _scalar(np.log, "log", "Natural logarithm.")
log2 = _scalar(np.log2, "log2", "Logarithm to base 2.")
log10 = _scalar(np.log10, "log10", "Logarithm to base 10.")
log1p = _scalar(np.log1p, "log1p", "Natural logarithm of 1 plus a value.")
sqrt = _scalar(np.sqrt, "sqrt", "Square root.")
rsqrt = _scalar(lambda x: 1 / np.sqrt(x), "rsqrt", "1 over the square root.")
sin = _scalar(np.sin, "sin", "Sine.")
cos = _scalar(np.cos, "cos", "Cosine.")
tan = _scalar(np.tan, "tan", "Tangent.")
sinh = _scalar(np.sinh, "sinh", "Hyperbolic sine.")
cosh = _scalar(np.cosh, "cosh", "Hyperbolic cosine.")
tanh = _scalar(np.tanh, "tanh", "Hyperbolic tangent.")
atan = _scalar(np.arctan, "atan", "Inverse tangent.")
erf = _scalar(_erf, "erf", "Error function.")
floor = _scalar(np.floor, "floor", "Rounded down.")
ceil = _scalar(np.ceil, "ceil", "Rounded up.")
trunc = _scalar(np.trunc, "trunc", "Rounded towards zero.")
round = _scalar(np.rint, "round", "Rounded to the nearest integer, halves to the even one.")
abs = _scalar(np.absolute, "abs", "Absolute value.")
maximum = _scalar(np.maximum, "maximum", "The larger of two values; NaN if one of them is.")
minimum = _scalar(np.minimum, "minimum", "The smaller of two values; NaN if one of them is.")
pow = _scalar(np.power, "pow", "The first value to the power of the second.")
max = maximum
min = minimum
inf = math.inf
nan = math.nan

FUNCTIONS: dict[Callable[..., Any], str] = {
    **{
        function: function.__name__
        for function in (
            exp, exp2, expm1, log, log2, log10, log1p, sqrt, rsqrt, sin, cos, tan, sinh, cosh,
            tanh, atan, erf, floor, ceil, trunc, round, abs, maximum, minimum, pow,
        )
    },
    builtins.abs: "abs", builtins.max: "maximum", builtins.min: "minimum",
    builtins.pow: "pow",
    **{
        getattr(math, name): name
        for name in (
            "exp", "expm1", "log", "log2", "log10", "log1p", "sqrt", "sin", "cos", "tan",
            "sinh", "cosh", "tanh", "atan", "erf", "floor", "ceil", "trunc", "pow",
        )
    },
    **{
        getattr(np, name): name
        for name in (
            "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "sin", "cos",
            "tan", "sinh", "cosh", "tanh", "floor", "ceil", "trunc", "maximum", "minimum",
        )
    },
    np.abs: "abs", np.arctan: "atan", np.rint: "round", np.power: "pow",
}  # fmt: skip
"""What may be called on elements, Python's and numpy's functions among it, and its operation."""
