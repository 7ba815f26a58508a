"""``powf``: through the logarithm and the exponential in double precision."""

from __future__ import annotations

import math

from mlcflow.mlir import arith, ir
from mlcflow.mlir import math as math_dialect
from mlcflow.vector_math.lanes import Lanes

# ln((1 + s) / (1 - s)) / s by powers of s**2, times log2(e); and 2**r over |r| <= 1/2.
ATANH = tuple(2.0 / (2 * k + 1) * math.log2(math.e) for k in range(7))
EXP2 = tuple(math.log(2.0) ** k / math.factorial(k) for k in range(9))

ROUND = 1.5 * 2.0**52
BIAS = 1023
SQRT_HALF = 0x3FE6A09E667F3BCD


def powf(lanes: Lanes, x: ir.Value, y: ir.Value) -> ir.Value:
    """``x**y`` within 1 ulp, with the special values of C99.

    Exponents that are constant and small whole numbers are multiplied out, those of one half
    are roots, as in PyTorch: of -0 and -inf they differ from C99.
    """
    constant = _constant(y)
    if constant in _CONSTANT:
        return _CONSTANT[constant](lanes, x)
    wide = lanes.with_element("f64")
    size = math_dialect.absf(x)
    exponent = arith.extf(wide.type, y)
    logarithm = _log2(wide, arith.extf(wide.type, size))
    result = arith.truncf(lanes.type, _exp2(wide, arith.mulf(exponent, logarithm)))
    return _at_edges(lanes, x, y, result)


def _constant(y: ir.Value) -> float | None:
    owner = y.owner
    if isinstance(owner, ir.Block) or owner.operation.name != "arith.constant":
        return None
    value = owner.operation.attributes["value"]
    if isinstance(value, ir.DenseElementsAttr):
        value = value.get_splat_value() if value.is_splat else value
    return ir.FloatAttr(value).value if isinstance(value, ir.FloatAttr) else None


def _square(lanes: Lanes, x: ir.Value) -> ir.Value:
    return arith.mulf(x, x)


def _cube(lanes: Lanes, x: ir.Value) -> ir.Value:
    return arith.mulf(arith.mulf(x, x), x)


def _inverse(lanes: Lanes, x: ir.Value) -> ir.Value:
    return arith.divf(lanes.number(1.0), x)


def _root(lanes: Lanes, x: ir.Value) -> ir.Value:
    return math_dialect.sqrt(x)


def _inverse_root(lanes: Lanes, x: ir.Value) -> ir.Value:
    return arith.divf(lanes.number(1.0), math_dialect.sqrt(x))


_CONSTANT = {
    1.0: lambda lanes, x: x,
    2.0: _square,
    3.0: _cube,
    -1.0: _inverse,
    0.5: _root,
    -0.5: _inverse_root,
}


def _log2(wide: Lanes, x: ir.Value) -> ir.Value:
    """Of ``x >= 0``; within 2**-40 of the result, or of 1 where ``x`` is no power of 2."""
    bits = wide.bits(x)
    e = wide.shift_right(arith.subi(bits, wide.integer(SQRT_HALF)), 52)
    m = wide.from_bits(arith.subi(bits, wide.shift_left(e, 52)))
    one = wide.number(1.0)
    s = arith.divf(arith.subf(m, one), arith.addf(m, one))
    tail = wide.polynomial(arith.mulf(s, s), ATANH)
    # The exponent as a number, without an instruction for 64-bit integers: through ROUND.
    shifted = wide.from_bits(arith.addi(e, wide.bits(wide.number(ROUND))))
    result = wide.fma(s, tail, arith.subf(shifted, wide.number(ROUND)))
    result = wide.where(wide.compare("oeq", x, 0.0), -math.inf, result)
    return wide.where(wide.compare("oeq", x, math.inf), math.inf, result)


def _exp2(wide: Lanes, x: ir.Value) -> ir.Value:
    x = wide.at_least(wide.at_most(x, 200.0), -200.0)  # far beyond single precision
    shifted = arith.addf(x, wide.number(ROUND))
    r = arith.subf(x, arith.subf(shifted, wide.number(ROUND)))
    power = wide.shift_left(arith.addi(wide.bits(shifted), wide.integer(BIAS)), 52)
    return arith.mulf(wide.polynomial(r, EXP2), wide.from_bits(power))


def _at_edges(lanes: Lanes, x: ir.Value, y: ir.Value, result: ir.Value) -> ir.Value:
    """The sign of the result, and what a logarithm of ``|x|`` cannot say."""
    whole = lanes.compare("oeq", math_dialect.roundeven(y), y)
    half = arith.mulf(y, lanes.number(0.5))
    odd = arith.andi(whole, lanes.compare("une", math_dialect.roundeven(half), half))
    result = arith.select(odd, math_dialect.copysign(result, x), result)
    negative = arith.andi(lanes.compare("olt", x, 0.0), lanes.compare("ogt", x, -math.inf))
    undefined = arith.andi(negative, lanes.compare("une", math_dialect.roundeven(y), y))
    result = lanes.where(undefined, math.nan, result)
    result = arith.select(lanes.compare("uno", x, y), arith.addf(x, y), result)
    # One to the power of anything, and -1 to that of infinity.
    is_one = lanes.compare("oeq", x, 1.0)
    endless = lanes.compare("oeq", math_dialect.absf(y), math.inf)
    minus_one = arith.andi(endless, lanes.compare("oeq", x, -1.0))
    always = arith.ori(lanes.compare("oeq", y, 0.0), arith.ori(is_one, minus_one))
    return lanes.where(always, 1.0, result)
