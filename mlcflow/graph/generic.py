"""Building ``linalg.generic`` operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlcflow.mlir import ir, linalg

Body = Callable[..., ir.Value]


def generic(
    operands: Sequence[ir.Value],
    start: ir.Value,
    maps: Sequence[Sequence[ir.AffineExpr]],
    kinds: Sequence[str],
    body: ir.Block | Body,
) -> ir.Value:
    """The result of a ``linalg.generic`` that updates ``start``.

    ``maps`` gives the position in each operand, then in ``start``, by expressions of the loops;
    ``kinds`` is ``parallel`` or ``reduction`` for each loop. ``body``: a block to take over, or a
    function from the elements, in that order, to the new one.
    """
    depth = len(kinds)
    op = linalg.GenericOp(
        [start.type],
        list(operands),
        [start],
        ir.ArrayAttr.get([ir.AffineMapAttr.get(ir.AffineMap.get(depth, 0, m)) for m in maps]),
        ir.ArrayAttr.get([ir.Attribute.parse(f"#linalg.iterator_type<{kind}>") for kind in kinds]),
    )
    if isinstance(body, ir.Block):
        body.append_to(op.regions[0])
        return op.results[0]
    values = [*operands, start]
    elements = [
        ir.ShapedType(v.type).element_type if isinstance(v.type, ir.ShapedType) else v.type
        for v in values
    ]
    block = op.regions[0].blocks.append(*elements)
    with ir.InsertionPoint(block):
        linalg.YieldOp([body(*block.arguments)])
    return op.results[0]


def dims(count: int) -> list[ir.AffineExpr]:
    """The first ``count`` loops."""
    return [ir.AffineExpr.get_dim(number) for number in range(count)]
