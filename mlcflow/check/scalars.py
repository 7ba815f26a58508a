"""The scalar operations of ``arith`` and ``math`` on numbers with error bounds."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from mlcflow.check.bounds import Arithmetic, Error, Number
from mlcflow.check.conversions import (
    BINARY_INTEGERS,
    CONVERSIONS,
    Unary,
    Unsupported,
    bits,
    monotone,
)
from mlcflow.mlir import arith, ir


def _special(name: str, plain: Callable[[float], float]) -> Unary:
    """A function that numpy does not have: PyTorch's if it is loaded, else one by one."""

    def function(x: np.ndarray) -> np.ndarray:
        from mlcflow.runtime.dtypes import torch_module

        torch = torch_module()
        if torch is None:
            return np.vectorize(plain, otypes=[np.float64])(x)
        array = np.ascontiguousarray(x, np.float64)
        result: np.ndarray = getattr(torch.special, name)(torch.from_numpy(array)).numpy()
        return result

    return function


# Functions that grow or fall all the way, and how exact they are in units of the roundoff:
# those of the C library, and our own for vectors (docs/numerics.md), within 2 ulp.
MONOTONE: dict[str, tuple[Unary, float]] = {
    "exp": (np.exp, 5),
    "exp2": (np.exp2, 5),
    "expm1": (np.expm1, 5),
    "log": (np.log, 5),
    "log2": (np.log2, 5),
    "log10": (np.log10, 5),
    "log1p": (np.log1p, 5),
    "sqrt": (np.sqrt, 3),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 5),
    "cbrt": (np.cbrt, 5),
    "tanh": (np.tanh, 5),
    "sinh": (np.sinh, 5),
    "asinh": (np.arcsinh, 5),
    "atan": (np.arctan, 5),
    "asin": (np.arcsin, 5),
    "acos": (np.arccos, 5),
    "atanh": (np.arctanh, 5),
    "acosh": (np.arccosh, 5),
    "erf": (_special("erf", math.erf), 5),
    "erfc": (_special("erfc", math.erfc), 5),
}
# Functions that are off by at most as much as their argument.
SHORT: dict[str, Unary] = {"sin": np.sin, "cos": np.cos}
EXACT: dict[str, Unary] = {"negf": np.negative, "absf": np.abs}
STEPS: dict[str, Unary] = {
    "ceil": np.ceil,
    "floor": np.floor,
    "trunc": np.trunc,
    "round": lambda x: np.copysign(np.floor(np.abs(x) + 0.5), x),
    "roundeven": np.rint,
}


_ORDER: dict[str, Callable[..., np.ndarray]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


def element(kind: ir.Type) -> ir.Type:
    """The element type of a tensor; of a scalar itself."""
    return ir.ShapedType(kind).element_type if isinstance(kind, ir.ShapedType) else kind


def scalar(op: ir.OpView, x: list[Number], how: Arithmetic) -> Number:
    """What ``op`` gives for these operands. Raises ``Unsupported``."""
    dialect, _, name = op.operation.name.partition(".")
    kind = element(op.results[0].type)
    with np.errstate(all="ignore"):
        if name in BINARY_INTEGERS and dialect == "arith":
            return Number(BINARY_INTEGERS[name](x[0].value, x[1].value), _undecided(*x))
        if name in ("cmpi", "cmpf"):
            return _compare(op, x)
        if name == "select":
            return _select(*x)
        if name in CONVERSIONS:
            return CONVERSIONS[name](x[0], kind, how)
        if isinstance(kind, ir.FloatType):
            return _floating(name, str(kind), x, how)
        if name == "absi":
            return Number(np.abs(x[0].value), _undecided(*x))
    raise Unsupported(f"{op.operation.name}: no rule for it in float64")


def _floating(name: str, kind: str, x: list[Number], how: Arithmetic) -> Number:
    a, ea = x[0].value, x[0].error
    if name in EXACT:
        return Number(EXACT[name](a), ea)
    if name in MONOTONE:
        function, units = MONOTONE[name]
        return how.rounded(function(a), monotone(function, a, ea), kind, units)
    if name in SHORT:
        return how.rounded(SHORT[name](a), ea, kind, 5)
    if name in STEPS:
        return Number(STEPS[name](a), None if ea is None else monotone(STEPS[name], a, ea))
    if name in BINARY:
        return BINARY[name](x, kind, how)
    raise Unsupported(f"math.{name}: no rule for it in float64")


def _add(x: list[Number], kind: str, how: Arithmetic) -> Number:
    return how.rounded(x[0].value + x[1].value, how.add(x[0].error, x[1].error), kind)


def _subtract(x: list[Number], kind: str, how: Arithmetic) -> Number:
    return how.rounded(x[0].value - x[1].value, how.add(x[0].error, x[1].error), kind)


def scaled(error: Error, factor: np.ndarray) -> Error:
    """``error`` times ``factor``; nothing times infinity is nothing."""
    if error is None:
        return None
    return np.where(error == 0, 0, error * np.abs(factor))


def product_error(x: list[Number], how: Arithmetic) -> Error:
    """The error that a product inherits from its factors."""
    (a, ea), (b, eb) = ((each.value, each.error) for each in x)
    both = None if ea is None or eb is None else scaled(ea, eb)
    return how.add(scaled(ea, b), scaled(eb, a), both)


def _multiply(x: list[Number], kind: str, how: Arithmetic) -> Number:
    return how.rounded(x[0].value * x[1].value, product_error(x, how), kind)


def _divide(x: list[Number], kind: str, how: Arithmetic) -> Number:
    (a, ea), (b, eb) = ((each.value, each.error) for each in x)
    value = a / b
    if ea is None and eb is None:
        return how.rounded(value, None, kind, 3)  # or a product with the reciprocal
    least = np.abs(b) if eb is None else np.maximum(np.abs(b) - eb, 0)
    above = how.add(ea, scaled(eb, value))
    assert above is not None
    return how.rounded(value, np.where(above == 0, 0, above / least), kind, 3)


def _extreme(function: Callable[..., np.ndarray]) -> Callable[..., Number]:
    def rule(x: list[Number], kind: str, how: Arithmetic) -> Number:
        (a, ea), (b, eb) = ((each.value, each.error) for each in x)
        value = function(a, b)
        if ea is None and eb is None:
            return Number(value)
        za, zb = (0.0 if error is None else error for error in (ea, eb))
        high = np.abs(function(a + za, b + zb) - value)
        low = np.abs(function(a - za, b - zb) - value)
        return Number(value, np.nan_to_num(np.fmax(low, high), nan=0.0, posinf=np.inf))

    return rule


def _power(x: list[Number], kind: str, how: Arithmetic) -> Number:
    (a, ea), (b, eb) = ((each.value, each.error) for each in x)
    value = np.power(a, b)
    if ea is None and eb is None:
        return how.rounded(value, None, kind, 5)
    za, zb = (0.0 if error is None else error for error in (ea, eb))
    corners = [np.power(a + s * za, b + t * zb) for s in (-1, 1) for t in (-1, 1)]
    off = np.max([np.abs(corner - value) for corner in corners], axis=0)
    # An even power has its least value where its base is 0.
    zero = (np.abs(a) <= za) & (za > 0)
    off = np.where(zero, np.maximum(off, np.abs(value)), off)
    return how.rounded(value, np.where(np.isnan(off), np.inf, off), kind, 5)


BINARY: dict[str, Callable[[list[Number], str, Arithmetic], Number]] = {
    "addf": _add,
    "subf": _subtract,
    "mulf": _multiply,
    "divf": _divide,
    "maximumf": _extreme(np.maximum),
    "minimumf": _extreme(np.minimum),
    "maxnumf": _extreme(np.fmax),
    "minnumf": _extreme(np.fmin),
    "powf": _power,
    "fpowi": _power,
    "fma": lambda x, kind, how: _add([_multiply(x[:2], kind, how), x[2]], kind, how),
}


def _undecided(*x: Number) -> Error:
    """Infinite where any operand is not certain."""
    known = [each.error for each in x if each.error is not None]
    if not known:
        return None
    found = np.zeros(np.broadcast_shapes(*(each.value.shape for each in x)))
    for error in known:
        found = np.where(np.broadcast_to(error, found.shape) > 0, np.inf, found)
    return found


def _compare(op: ir.OpView, x: list[Number]) -> Number:
    a, b = x[0].value, x[1].value
    if op.operation.name == "arith.cmpi":
        text = arith.CmpIPredicate(ir.IntegerAttr(op.attributes["predicate"]).value).name
        function = _ORDER[text.lstrip("su") if text not in _ORDER else text]
        if text.startswith("u"):
            a, b = bits(a), bits(b)
        elif a.dtype == bool and text.startswith("s"):
            a, b = -a.astype(np.int8), -b.astype(np.int8)  # the sign of one bit
        return Number(function(a, b), _undecided(*x))
    text = arith.CmpFPredicate(ir.IntegerAttr(op.attributes["predicate"]).value).name.lower()
    nan = np.isnan(a) | np.isnan(b)
    if text in ("alwaystrue", "alwaysfalse", "true", "false"):
        return Number(np.full(nan.shape, text.endswith("true")))
    if text in ("ord", "uno"):
        return Number(nan == (text == "uno"))
    value = _ORDER[text[1:]](a, b)
    value = value | nan if text[0] == "u" else value & ~nan
    if x[0].error is None and x[1].error is None:
        return Number(value)
    if x[0] is x[1]:  # whether it is NaN, which rounding does not decide
        return Number(value, np.where(np.isinf(x[0].errors), np.inf, 0.0))
    close = np.abs(a - b) <= x[0].errors + x[1].errors
    return Number(value, np.where(close & (x[0].errors + x[1].errors > 0), np.inf, 0.0))


def _select(condition: Number, yes: Number, no: Number) -> Number:
    value = np.where(condition.value, yes.value, no.value)
    if condition.error is None and yes.error is None and no.error is None:
        return Number(value)
    error = np.where(condition.value, yes.errors, no.errors)
    if condition.error is not None:
        other = np.where(condition.value, no.value, yes.value)
        if value.dtype.kind == "f":
            away = np.abs(other - value) + np.where(condition.value, no.errors, yes.errors)
            away = np.where(other == value, np.maximum(yes.errors, no.errors), away)
        else:
            away = np.where(other == value, 0.0, np.inf)
        error = np.where(condition.error > 0, np.maximum(error, away), error)
    return Number(value, error)
