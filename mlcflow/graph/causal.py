"""Attention in which no query sees a later key: half of the scores need not be computed."""

from __future__ import annotations

import math

from mlcflow.graph.diagonal import diagonal
from mlcflow.graph.kernel import loop_extents
from mlcflow.graph.linalg_ops import is_contraction, is_elementwise, is_generic, owner
from mlcflow.graph.outline import kernels
from mlcflow.mlir import affine, arith, func, ir, scf, vector, walk

CAUSAL = "mlcflow.causal"

FEWEST = 4
"""Times that the steps over the keys fit into them, so that there is something to skip."""


def note_causal(function: func.FuncOp) -> None:
    """Note the numbers of queries and keys on a kernel of attention whose mask is causal.

    So it is if the scores of keys behind a query become minus infinity, or next to it. No other
    loop of the kernel may be as long as the keys, by which their loops are known later.
    """
    for op in walk(function):
        if is_generic(op) and is_elementwise(op) and diagonal(op) == 0:
            *_, queries, keys = loop_extents(op)
            scores, values = (loop_extents(each) for each in walk(function) if is_contraction(each))
            if keys not in (scores[-1], values[-2]):
                numbers = [ir.IntegerAttr.get(ir.IndexType.get(), n) for n in (queries, keys)]
                function.operation.attributes[CAUSAL] = ir.ArrayAttr.get(numbers)


def skip_hidden_keys(module: ir.Module) -> None:
    """A step: the loops over the keys end behind the last query of a block.

    All of them, to a multiple of all of their steps, so that none reads what was not computed.
    A hidden key that is infinite or NaN does not reach the result then.
    """
    for function in kernels(module):
        if CAUSAL not in function.operation.attributes:
            continue
        extents = [ir.IntegerAttr(e).value for e in function.operation.attributes[CAUSAL]]
        products = _products(function)
        for loop in walk(function):
            if isinstance(loop, scf.ForOp) and _goes_over_queries(loop, extents[0], products):
                _skip(loop, *extents)


def _goes_over_queries(loop: scf.ForOp, queries: int, products: int) -> bool:
    """Whether ``loop`` goes over blocks of queries.

    It holds all products; so do loops over heads, but these go one by one.
    """
    extent, step = _constant(loop.upperBound), _constant(loop.step)
    return (extent, _products(loop)) == (queries, products) and step != 1


def _products(op: ir.OpView) -> int:
    return sum(isinstance(inner, vector.ContractionOp) for inner in walk(op))


def _skip(loop: scf.ForOp, queries: int, keys: int) -> None:
    inside = [op for op in walk(loop) if isinstance(op, scf.ForOp) and op != loop]
    over_keys = [op for op in inside if _constant(op.upperBound) == keys]
    block = _constant(loop.step)
    steps = [_constant(op.step) for op in over_keys]
    if not steps or None in steps or block is None:
        return
    unit = math.lcm(*steps)  # type: ignore[arg-type]
    if keys % unit or FEWEST * unit > keys:
        return
    first = loop.body.operations[0]
    with ir.InsertionPoint(first), loop.location:
        seen = ir.AffineExpr.get_ceil_div(ir.AffineExpr.get_dim(0) + block, unit) * unit
        bound = affine.AffineMinOp(
            ir.AffineMap.get(1, 0, [seen, ir.AffineExpr.get_constant(keys)]),
            [loop.induction_variable],
        )
    for op in over_keys:
        op.operation.operands[1] = bound.result


def _constant(value: ir.Value) -> int | None:
    op = owner(value)
    return op.literal_value if isinstance(op, arith.ConstantOp) else None
