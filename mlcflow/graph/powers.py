"""Powers of e whose exponents are at most 0, as powers of 2."""

from __future__ import annotations

import math

from mlcflow.graph.linalg_ops import inputs, is_elementwise, is_generic, iterators, owner, payload
from mlcflow.mlir import arith, func, ir, walk
from mlcflow.mlir import math as math_dialect
from mlcflow.vector_math.bounds import ANY_IF_NAN, AT_MOST_ZERO

SINGLE = ("f16", "bf16", "f32")


def use_powers_of_two(function: func.FuncOp) -> None:
    """``exp(x - largest)``, as in softmax, becomes ``2**((x - largest) log2(e))``.

    A power of 2 that does not exceed 1 takes 13 instructions instead of 21. The difference
    rounds by as much as its product with a constant does, so the error at most doubles.
    """
    for op in walk(function):
        inside = payload(op) if is_elementwise(op) and len(inputs(op)) == 2 else []
        if [inner.operation.name for inner in inside] != ["arith.subf", "math.exp"]:
            continue
        x, largest = inputs(op)
        reduction = owner(largest)
        # The payload takes its arguments in the order of the inputs.
        block = op.operation.regions[0].blocks[0]
        in_order = list(inside[0].operands) == list(block.arguments)[:2]
        if reduction is None or not is_maximum(reduction) or not in_order:
            continue
        if inputs(reduction)[0] == x and str(ir.ShapedType(x.type).element_type) in SINGLE:
            _replace(inside[1])
            if _shows_nan(op, reduction):
                payload(reduction)[0].attributes[ANY_IF_NAN] = ir.UnitAttr.get()


def _shows_nan(powers: ir.OpView, largest: ir.OpView) -> bool:
    """Whether NaN in a row makes all of it NaN, as it is in the sum that divides the row."""
    if {use.owner.operation for use in largest.results[0].uses} != {powers.operation}:
        return False
    users = {use.owner.operation: use.owner.opview for use in powers.results[0].uses}
    sums = [op for op in users.values() if _names(op) == ["arith.addf"] and _reduces(op)]
    others = [op for op in users.values() if op not in sums]
    return len(sums) == 1 and all(_divides_by(op, sums[0]) for op in others)


def _divides_by(op: ir.OpView, total: ir.OpView) -> bool:
    """Whether ``op`` is its first input over ``total``, or times the reciprocal of that."""
    if _names(op) not in (["arith.divf"], ["arith.mulf"]) or len(inputs(op)) != 2:
        return False
    divisor = owner(inputs(op)[1])
    reciprocal = divisor is not None and _names(divisor) == ["arith.divf"]
    if reciprocal and len(inputs(divisor)) == 1:
        divisor = owner(inputs(divisor)[0])
    return divisor is not None and divisor.operation == total.operation


def _names(op: ir.OpView) -> list[str]:
    return [inner.operation.name for inner in payload(op)] if is_generic(op) else []


def _reduces(op: ir.OpView) -> bool:
    return "reduction" in iterators(op)


def is_maximum(op: ir.OpView) -> bool:
    """Whether ``op`` reduces to the largest element."""
    return _names(op) in (["arith.maximumf"], ["arith.maxnumf"]) and _reduces(op)


def _replace(exp: ir.OpView) -> None:
    difference = exp.operation.operands[0]
    with ir.InsertionPoint(exp), exp.location:
        factor = arith.constant(difference.type, math.log2(math.e))
        power = math_dialect.exp2(arith.mulf(difference, factor))
    power.owner.attributes[AT_MOST_ZERO] = ir.UnitAttr.get()
    exp.operation.results[0].replace_all_uses_with(power)
    exp.operation.erase()
