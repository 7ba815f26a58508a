"""Integers, and conversions between types, of numbers with error bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mlcflow.check.bounds import Arithmetic, Error, Number
from mlcflow.errors import MlcflowError
from mlcflow.mlir import ir


class Unsupported(MlcflowError):
    """An operation for which nobody has said what it does in float64."""


INTEGERS = {1: np.bool_, 8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}

Unary = Callable[[np.ndarray], np.ndarray]


def bits(value: np.ndarray) -> np.ndarray:
    """The same bits taken for numbers without a sign."""
    return value if value.dtype.kind != "i" else value.view(f"u{value.dtype.itemsize}")


def _unsigned(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """``function`` on the same bits taken for numbers without a sign."""

    def on_bits(*values: np.ndarray) -> np.ndarray:
        kind = values[0].dtype
        wide = [bits(value) for value in values]
        return function(*wide).astype(kind)

    return on_bits


def _quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rounded to zero, as in C; division by zero gives 0, which nobody may use."""
    rest = np.fmod(a, np.where(b == 0, 1, b))
    return (a - rest) // np.where(b == 0, 1, b)


BINARY_INTEGERS: dict[str, Callable[..., np.ndarray]] = {
    "addi": np.add,
    "subi": np.subtract,
    "muli": np.multiply,
    "andi": np.bitwise_and,
    "ori": np.bitwise_or,
    "xori": np.bitwise_xor,
    "maxsi": np.maximum,
    "minsi": np.minimum,
    "maxui": _unsigned(np.maximum),
    "minui": _unsigned(np.minimum),
    "shli": np.left_shift,
    "shrsi": np.right_shift,
    "shrui": _unsigned(np.right_shift),
    "divsi": _quotient,
    "remsi": lambda a, b: np.fmod(a, np.where(b == 0, 1, b)),
    "divui": _unsigned(lambda a, b: a // np.where(b == 0, 1, b)),
    "remui": _unsigned(lambda a, b: a % np.where(b == 0, 1, b)),
    "floordivsi": lambda a, b: a // np.where(b == 0, 1, b),
    "ceildivsi": lambda a, b: -(-a // np.where(b == 0, 1, b)),
}


def integer_type(kind: ir.Type) -> Any:
    """numpy's type of an MLIR integer or index."""
    if isinstance(kind, ir.IndexType):
        return np.int64
    if isinstance(kind, ir.IntegerType) and kind.width in INTEGERS:
        return INTEGERS[kind.width]
    raise Unsupported(f"no numbers in float64 for elements of {kind}")


def monotone(function: Unary, a: np.ndarray, error: Error) -> Error:
    """How far ``function`` may be off when its argument is: it is monotone."""
    if error is None:
        return None
    value = function(a)
    low, high = np.abs(function(a - error) - value), np.abs(function(a + error) - value)
    found = np.fmax(low, high)
    return np.where(np.isnan(low) | np.isnan(high), np.where(error > 0, np.inf, 0), found)


def _to_float(number: Number, kind: ir.Type, how: Arithmetic) -> Number:
    value = number.value.astype(np.float64)
    return how.rounded(value, number.error, str(kind)) if how.keeps else Number(value)


def _from_unsigned(number: Number, kind: ir.Type, how: Arithmetic) -> Number:
    return _to_float(Number(bits(number.value), number.error), kind, how)


def _to_integer(number: Number, kind: ir.Type, how: Arithmetic) -> Number:
    value = np.trunc(number.value)
    limits = 2.0 ** (getattr(kind, "width", 64) - 1)
    inside = np.nan_to_num(np.clip(value, -limits, np.nextafter(limits, 0)))
    error = None
    if number.error is not None:
        moved = monotone(np.trunc, number.value, number.error)
        assert moved is not None
        error = np.where(moved > 0, np.inf, 0.0)
    return Number(inside.astype(integer_type(kind)), error)


def _narrow(number: Number, kind: ir.Type, how: Arithmetic) -> Number:
    return how.rounded(number.value, number.error, str(kind))


def _resize(number: Number, kind: ir.Type, how: Arithmetic) -> Number:
    value = number.value
    if value.dtype == bool and not isinstance(kind, ir.IndexType) and kind.width > 1:
        value = -value.astype(np.int8)  # the sign of one bit
    wanted = integer_type(kind)
    return Number((value & 1).astype(bool) if wanted is np.bool_ else value.astype(wanted),
                  number.error)  # fmt: skip


def _widen(number: Number, kind: ir.Type, how: Arithmetic) -> Number:
    return Number(bits(number.value).astype(integer_type(kind)), number.error)


CONVERSIONS: dict[str, Callable[[Number, ir.Type, Arithmetic], Number]] = {
    "sitofp": _to_float,
    "uitofp": _from_unsigned,
    "fptosi": _to_integer,
    "fptoui": _to_integer,
    "truncf": _narrow,
    "extf": lambda number, kind, how: number,
    "extsi": _resize,
    "trunci": _resize,
    "index_cast": _resize,
    "extui": _widen,
    "index_castui": _widen,
}
