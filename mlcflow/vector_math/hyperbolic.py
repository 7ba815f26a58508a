"""``tanh``."""

from __future__ import annotations

from mlcflow.mlir import arith, ir, math
from mlcflow.vector_math.exponential import expm1_bounded
from mlcflow.vector_math.lanes import Lanes


def tanh(lanes: Lanes, x: ir.Value) -> ir.Value:
    """``t / (t + 2)`` with ``t = e**(2 |x|) - 1``, which loses nothing near 0. Within 3 ulp."""
    size = lanes.at_most(math.absf(x), 10.0)  # the result is 1 from 9.02 on
    t = expm1_bounded(lanes, arith.addf(size, size))
    return math.copysign(arith.divf(t, arith.addf(t, lanes.number(2.0))), x)
