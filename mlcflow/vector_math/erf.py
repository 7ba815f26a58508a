"""``erf``."""

from __future__ import annotations

from mlcflow.mlir import arith, ir, math
from mlcflow.vector_math.exponential import expm1_bounded
from mlcflow.vector_math.lanes import Lanes

# -ln(erfc(x)) / x by powers of x, minimax over [0, 3.95]; error of erf below 2**-27.8. The
# constant term, 2 / sqrt(pi), is what small arguments are multiplied by: in two parts.
FIRST = 1.128379225730896
Q = (
    -5.8635382771399236e-08, 0.636619508266449, 0.10277687013149261, -0.019149910658597946,
    -0.00016571152082178742, 0.0016719658160582185, -0.0006353812059387565,
    0.00011831977462861687, -9.329050044470932e-06,
)  # fmt: skip


def erf(lanes: Lanes, x: ir.Value) -> ir.Value:
    """``1 - e**-(x Q(x))``: one polynomial serves all ``x``. Within 2 ulp."""
    size = lanes.at_most(math.absf(x), 3.95)  # the result is 1 from 3.92 on
    small = arith.mulf(size, lanes.polynomial(size, Q))
    power = lanes.fma(size, lanes.number(FIRST), small)
    return math.copysign(expm1_bounded(lanes, arith.negf(power)), x)
