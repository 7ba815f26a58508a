"""Powers with a whole exponent, which upstream lowers for scalars only."""

from __future__ import annotations

from mlcflow.mlir import arith, ir, math, walk

MOST = 16
"""Larger exponents go through ``math.powf``, whose error does not grow with them."""


def multiply_powers_out(module: ir.Module) -> None:
    """Replace ``math.fpowi`` by multiplications, or by ``math.powf``.

    ``x**n`` for a constant ``|n|`` up to 16 by repeated squaring: an error of at most half an
    ulp a multiplication.
    """
    for op in walk(module.operation):
        if op.operation.name != "math.fpowi":
            continue
        with ir.InsertionPoint(op), op.location:
            x, exponent = op.operands
            n = _constant(exponent)
            if n is not None and abs(n) <= MOST:
                result = _power(x, n)
            else:
                result = math.powf(x, arith.sitofp(x.type, exponent))
        op.results[0].replace_all_uses_with(result)
        op.operation.erase()


def _constant(value: ir.Value) -> int | None:
    owner = value.owner
    if isinstance(owner, ir.Block) or owner.operation.name != "arith.constant":
        return None
    attribute = owner.operation.attributes["value"]
    if isinstance(attribute, ir.DenseElementsAttr):
        return None
    return ir.IntegerAttr(attribute).value


def _power(x: ir.Value, n: int) -> ir.Value:
    one = arith.constant(x.type, 1.0)
    if n < 0:
        return arith.divf(one, _power(x, -n))
    result, square = None, x
    while n:
        if n % 2:
            result = square if result is None else arith.mulf(result, square)
        n //= 2
        if n:
            square = arith.mulf(square, square)
    return one if result is None else result
