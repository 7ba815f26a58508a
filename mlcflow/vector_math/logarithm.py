"""``log``, ``log1p``, ``log2`` and ``log10``.

``x = 2**e (1 + f)`` with ``1 + f`` between the square roots of 1/2 and 2, and a polynomial for
``log(1 + f)`` behind its first two terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from mlcflow.mlir import arith, ir
from mlcflow.mlir import math as math_dialect
from mlcflow.vector_math.exponential import LN2_HIGH, LN2_LOW
from mlcflow.vector_math.lanes import Lanes

SQRT_HALF = 0x3F3504F3
"""The representation of the square root of 1/2."""

# (log(1 + f) - f + f**2 / 2) / f**3, minimax; error of the logarithm below 2**-30.3.
P = (
    0.3333331346511841, -0.25000008940696716, 0.2000207155942917, -0.16667988896369934,
    0.14220359921455383, -0.12406241148710251, 0.11883539706468582, -0.11670006811618805,
    0.0674915462732315,
)  # fmt: skip

# In two parts each. The first of log10(2) has so few bits that its product with e is exact.
LOG2_E = (1.4426950216293335, 1.925963033500011e-08)
LOG10_E = (0.4342944920063019, -1.0103049952192578e-08)
LOG10_2 = (0.301025390625, 4.605039066518657e-06)


def log(lanes: Lanes, x: ir.Value) -> ir.Value:
    """Within 1 ulp."""
    e, f = _split(lanes, x)
    return _at_edges(lanes, x, _natural(lanes, e, f))


def log2(lanes: Lanes, x: ir.Value) -> ir.Value:
    """Within 2 ulp."""
    e, f = _split(lanes, x)
    return _at_edges(lanes, x, arith.addf(e, _in_base(lanes, f, LOG2_E)))


def log10(lanes: Lanes, x: ir.Value) -> ir.Value:
    """Within 2 ulp."""
    e, f = _split(lanes, x)
    small = lanes.fma(e, lanes.number(LOG10_2[1]), _in_base(lanes, f, LOG10_E))
    return _at_edges(lanes, x, lanes.fma(e, lanes.number(LOG10_2[0]), small))


def log1p(lanes: Lanes, x: ir.Value) -> ir.Value:
    """Within 2 ulp. What is lost when 1 is added goes into ``f``."""
    one = lanes.number(1.0)
    u = arith.addf(x, one)
    lost_x = arith.subf(x, arith.subf(u, one))
    lost_one = arith.subf(one, arith.subf(u, x))
    lost = arith.select(lanes.compare("ogt", x, 1.0), lost_one, lost_x)
    exponent = _exponent(lanes, lanes.bits(u))
    down = lanes.from_bits(arith.subi(lanes.integer(127 << 23), lanes.shift_left(exponent, 23)))
    mantissa = arith.subi(lanes.bits(u), lanes.shift_left(exponent, 23))
    f = arith.subf(lanes.from_bits(mantissa), one)
    lost = lanes.where(lanes.compare("ogt", x, 2.0**30), 0.0, arith.mulf(lost, down))
    f = arith.addf(f, lost)
    result = _natural(lanes, arith.sitofp(lanes.type, exponent), f)
    result = _at_edges(lanes, u, result)
    tiny = lanes.compare("olt", math_dialect.absf(x), 2.0**-25)
    return lanes.where(tiny, x, result)


def _split(lanes: Lanes, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """``e`` as a number, and ``f``, of a positive ``x``."""
    subnormal = lanes.compare("olt", x, 2.0**-126)
    x = arith.select(subnormal, arith.mulf(x, lanes.number(2.0**23)), x)
    exponent = _exponent(lanes, lanes.bits(x))
    mantissa = arith.subi(lanes.bits(x), lanes.shift_left(exponent, 23))
    f = arith.subf(lanes.from_bits(mantissa), lanes.number(1.0))
    e = arith.sitofp(lanes.type, exponent)
    return arith.select(subnormal, arith.subf(e, lanes.number(23.0)), e), f


def _exponent(lanes: Lanes, bits: ir.Value) -> ir.Value:
    return lanes.shift_right(arith.subi(bits, lanes.integer(SQRT_HALF)), 23)


def _tail(lanes: Lanes, f: ir.Value) -> tuple[ir.Value, ir.Value]:
    """``f**2``, and ``log(1 + f)`` without its first two terms."""
    square = arith.mulf(f, f)
    return square, arith.mulf(arith.mulf(lanes.polynomial(f, P), f), square)


def _natural(lanes: Lanes, e: ir.Value, f: ir.Value) -> ir.Value:
    """The sum from its smallest term to its largest."""
    square, result = _tail(lanes, f)
    result = lanes.fma(e, lanes.number(LN2_LOW), result)
    result = lanes.fma(square, lanes.number(-0.5), result)
    return lanes.fma(e, lanes.number(LN2_HIGH), arith.addf(f, result))


def _in_base(lanes: Lanes, f: ir.Value, factor: tuple[float, float]) -> ir.Value:
    """``log(1 + f)`` times a factor in two parts."""
    square, tail = _tail(lanes, f)
    tail = lanes.fma(square, lanes.number(-0.5), tail)
    low = lanes.fma(tail, lanes.number(factor[0]), arith.mulf(f, lanes.number(factor[1])))
    return lanes.fma(f, lanes.number(factor[0]), low)


def _at_edges(lanes: Lanes, x: ir.Value, result: ir.Value) -> ir.Value:
    """The logarithm of what is no positive, finite number: -inf, inf or NaN."""
    positive = lanes.compare("ogt", x, 0.0)
    edge = lanes.where(lanes.compare("oeq", x, 0.0), -math.inf, lanes.number(math.nan))
    result = arith.select(positive, result, edge)
    return lanes.where(lanes.compare("oeq", x, math.inf), math.inf, result)


LOGARITHMS: dict[str, Callable[[Lanes, ir.Value], ir.Value]] = {
    "math.log": log,
    "math.log1p": log1p,
    "math.log2": log2,
    "math.log10": log10,
}
