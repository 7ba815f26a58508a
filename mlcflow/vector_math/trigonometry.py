"""``sin`` and ``cos``, for any argument."""

from __future__ import annotations

import math

from mlcflow.mlir import arith, ir
from mlcflow.mlir import math as math_dialect
from mlcflow.vector_math.lanes import Lanes

# 1 / (2 pi) as a sum of pieces[k] * 2**(-28 (k + 1)). The product of a piece and a single-
# precision number is exact in double precision (after Payne and Hanek, Radian Reduction for
# Trigonometric Functions, 1983): whole turns are taken off each product by itself.
PIECE_BITS = 28
PIECES = (42722829, 194220293, 78114973, 99908941, 58131309, 145057359, 17711367)

# (sin(y) - y) / y**3 and (cos(y) - 1 + y**2 / 2) / y**4 as polynomials of y**2, minimax over
# |y| <= pi / 4; errors below 2**-28 and 2**-33.
SIN = (-0.16666655242443085, 0.008332191035151482, -0.0001951861340785399)
COS = (0.04166664555668831, -0.0013887310633435845, 2.443256016704254e-05)


def sin(lanes: Lanes, x: ir.Value) -> ir.Value:
    """Within 2 ulp."""
    quarter, y = _reduce(lanes, x)
    result = _of_quarter(lanes, quarter, y)
    tiny = lanes.compare("olt", math_dialect.absf(x), 2.0**-12)
    return lanes.where(tiny, x, result)


def cos(lanes: Lanes, x: ir.Value) -> ir.Value:
    """Within 2 ulp: the sine, a quarter of a turn ahead."""
    quarter, y = _reduce(lanes, x)
    return _of_quarter(lanes, arith.addi(quarter, lanes.integer(1)), y)


def _of_quarter(lanes: Lanes, quarter: ir.Value, y: ir.Value) -> ir.Value:
    """The sine of ``y`` plus so many quarters of a turn."""
    square = arith.mulf(y, y)
    sine = lanes.fma(arith.mulf(lanes.polynomial(square, SIN), square), y, y)
    cosine = lanes.fma(square, lanes.number(-0.5), lanes.number(1.0))
    fourth = arith.mulf(square, square)
    cosine = lanes.fma(lanes.polynomial(square, COS), fourth, cosine)
    odd = arith.cmpi(
        arith.CmpIPredicate.ne, arith.andi(quarter, lanes.integer(1)), lanes.integer(0)
    )
    sign = lanes.shift_left(arith.andi(quarter, lanes.integer(2)), 30)
    return lanes.from_bits(arith.xori(lanes.bits(arith.select(odd, cosine, sine)), sign))


def _reduce(lanes: Lanes, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The nearest quarter of a turn, by number, and the angle from there."""
    wide = lanes.with_element("f64")
    x = arith.extf(wide.type, x)
    total = lost = wide.number(0.0)
    for number, piece in enumerate(PIECES):
        turns = arith.mulf(x, wide.number(math.ldexp(piece, -PIECE_BITS * (number + 1))))
        turns = arith.subf(turns, math_dialect.roundeven(turns))
        # What rounding the sum loses counts where x is next to a multiple of pi / 2.
        before, total = total, arith.addf(total, turns)
        lost = arith.addf(lost, arith.subf(turns, arith.subf(total, before)))
    quarters = arith.mulf(total, wide.number(4.0))
    quarter = math_dialect.roundeven(quarters)
    rest = wide.fma(lost, wide.number(4.0), arith.subf(quarters, quarter))
    y = arith.mulf(rest, wide.number(math.pi / 2))
    return arith.fptosi(lanes.bits_type, quarter), arith.truncf(lanes.type, y)
