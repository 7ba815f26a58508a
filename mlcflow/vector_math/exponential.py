"""``exp``, ``exp2`` and ``expm1``.

``x = n ln 2 + r`` with a whole ``n`` and ``|r| <= ln(2) / 2`` (Cody and Waite, Software Manual
for the Elementary Functions, 1980), so ``e**x = 2**n e**r``, and a polynomial for ``e**r``.
"""

from __future__ import annotations

import math

from mlcflow.mlir import arith, ir
from mlcflow.mlir import math as math_dialect
from mlcflow.vector_math.lanes import Lanes

# Adding it leaves no bits for a fraction: the sum is rounded to a whole number, which then is in
# the lowest bits of its representation.
ROUND = 1.5 * 2.0**23

LOG2_E = math.log2(math.e)
# ln 2 in two parts; the first has so few bits that its product with n is exact.
LN2_HIGH, LN2_LOW = 0.693145751953125, 1.428606765330187e-06

# (e**r - 1 - r) / r**2 by minimax polynomials over |r| <= ln(2) / 2. Errors of e**r below
# 2**-28.3, of e**r - 1 below 2**-31.
EXP = (
    0.4999999403953552, 0.1666652113199234, 0.04166826605796814, 0.008368677459657192,
    0.001382073387503624,
)  # fmt: skip
EXPM1 = (
    0.5, 0.1666666716337204, 0.04166648909449577, 0.008333208039402962, 0.0013932674191892147,
    0.0001994426711462438,
)  # fmt: skip
# (2**r - 1) / r over |r| <= 1/2; error of 2**r below 2**-28.3.
EXP2 = (
    0.6931471824645996, 0.24022647738456726, 0.05550359562039375, 0.009618501178920269,
    0.001339098671451211, 0.0001532858150312677,
)  # fmt: skip


def exp(lanes: Lanes, x: ir.Value) -> ir.Value:
    """Within 1 ulp."""
    x = lanes.at_least(lanes.at_most(x, 89.0), -104.0)  # overflows, and is 0
    n, r = _reduce(lanes, x)
    square = arith.mulf(r, r)
    tail = lanes.fma(lanes.polynomial(r, EXP), square, r)
    return _scale(lanes, arith.addf(tail, lanes.number(1.0)), n)


def exp2(lanes: Lanes, x: ir.Value) -> ir.Value:
    """Within 1 ulp."""
    x = lanes.at_least(lanes.at_most(x, 129.0), -151.0)
    shifted = arith.addf(x, lanes.number(ROUND))
    r = arith.subf(x, arith.subf(shifted, lanes.number(ROUND)))
    return _scale(lanes, lanes.polynomial(r, (1.0, *EXP2)), lanes.bits(shifted))


def exp2_below_one(lanes: Lanes, x: ir.Value) -> ir.Value:
    """``exp2`` of what is not above 0: within 1 ulp, and 0 instead of subnormal numbers.

    So ``2**n`` is a normal number: ``x * 2**n`` is one product, and nothing need be bounded.
    """
    # The bits of the sum end in n + 127, which is the exponent of 2**n.
    shifted = arith.addf(x, lanes.number(ROUND + 127.0))
    r = arith.subf(x, arith.subf(shifted, lanes.number(ROUND + 127.0)))
    power = lanes.from_bits(lanes.shift_left(lanes.bits(shifted), 23))
    result = arith.mulf(lanes.polynomial(r, (1.0, *EXP2)), power)
    return lanes.where(lanes.compare("olt", x, -126.0), 0.0, result)


def expm1(lanes: Lanes, x: ir.Value) -> ir.Value:
    """Within 2 ulp."""
    bounded = lanes.at_least(lanes.at_most(x, 89.0), -18.0)
    n, q = _minus_one(lanes, bounded)
    # Half of 2**n, which for n = 128 is still a number.
    half = lanes.from_bits(arith.addi(lanes.shift_left(n, 23), lanes.integer(126 << 23)))
    result = lanes.fma(half, q, arith.subf(half, lanes.number(0.5)))
    result = arith.addf(result, result)
    tiny = lanes.compare("olt", math_dialect.absf(x), 2.0**-25)
    return lanes.where(tiny, x, result)


def expm1_bounded(lanes: Lanes, x: ir.Value) -> ir.Value:
    """``expm1`` for ``|x|`` up to 60, and without the sign of zero."""
    n, q = _minus_one(lanes, x)
    power = lanes.from_bits(arith.addi(lanes.shift_left(n, 23), lanes.integer(127 << 23)))
    return lanes.fma(power, q, arith.subf(power, lanes.number(1.0)))


def _minus_one(lanes: Lanes, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """``n`` as :func:`_reduce` gives it, and ``e**r - 1``."""
    n, r = _reduce(lanes, x)
    return n, lanes.fma(lanes.polynomial(r, EXPM1), arith.mulf(r, r), r)


def _reduce(lanes: Lanes, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Integers whose lowest bits are ``n``, and the remainder ``r``."""
    shifted = lanes.fma(x, lanes.number(LOG2_E), lanes.number(ROUND))
    n = arith.subf(shifted, lanes.number(ROUND))
    r = lanes.fma(n, lanes.number(-LN2_HIGH), x)
    return lanes.bits(shifted), lanes.fma(n, lanes.number(-LN2_LOW), r)


def _scale(lanes: Lanes, x: ir.Value, n: ir.Value) -> ir.Value:
    """``x * 2**n``, in two factors: one would not reach the subnormal numbers.

    The lowest 9 bits of ``n`` count. A multiplication instead of an addition to the exponent,
    so that NaN stays NaN.
    """
    all_of_it = lanes.shift_left(n, 23)
    one_half = lanes.shift_left(lanes.shift_right(n, 1), 23)
    one = lanes.integer(127 << 23)
    first = lanes.from_bits(arith.addi(one_half, one))
    second = lanes.from_bits(arith.addi(arith.subi(all_of_it, one_half), one))
    return arith.mulf(arith.mulf(x, first), second)
