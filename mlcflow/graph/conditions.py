"""Selections by a comparison of what they select, as in a clamp: one operation, as ReLU is."""

from __future__ import annotations

import numpy as np

from mlcflow.graph.fuse import fuse_operand
from mlcflow.graph.linalg_ops import (
    indexing_maps,
    inputs,
    is_elementwise,
    is_identity,
    owner,
    payload,
)
from mlcflow.mlir import arith, ir, walk

WIDENED: dict[str, type[np.floating]] = {"f32": np.float32, "f16": np.float16}
"""Types whose comparison with a constant may be written in f64."""


def join_conditions(module: ir.Module) -> None:
    """Let an operation that selects compare as well, where it reads what is compared.

    ``select(x < a, a, x)`` comes as two operations, so that ``x`` has two readers, and fuses with
    neither. A comparison in f64 of what was widened to it is made in the type that it had, if
    the other side has it as well; it gives the same for each number, NaN included.
    """
    for op in walk(module.operation):
        if isinstance(op, arith.CmpFOp):
            _narrow(op)
    for op in walk(module.operation):
        if is_elementwise(op):
            number = _condition(op)
            if number is not None:
                comparison = inputs(op)[number].owner
                fuse_operand(op, number)
                comparison.erase()


def _condition(op: ir.OpView) -> int | None:
    """The number of the operand that only says which of the others ``op`` gives."""
    read = set(zip(inputs(op), indexing_maps(op), strict=False))
    for number, (value, affine_map) in enumerate(zip(inputs(op), indexing_maps(op), strict=False)):
        compared = owner(value)
        if (
            compared is not None
            and is_elementwise(compared)
            and is_identity(affine_map)
            and len(compared.results) == 1
            and len(list(value.uses)) == 1
            and any(isinstance(inner, arith.CmpFOp) for inner in payload(compared))
            and set(zip(inputs(compared), indexing_maps(compared), strict=False)) <= read
        ):
            return number
    return None


def _narrow(op: arith.CmpFOp) -> None:
    """Compare what both sides were before they were widened."""
    sides = [owner(value) for value in op.operands]
    sources = [side.operands[0] if isinstance(side, arith.ExtFOp) else None for side in sides]
    kinds = {source.type for source in sources if source is not None}
    if len(kinds) != 1:
        return
    kind = kinds.pop()
    with ir.InsertionPoint(op), op.location:
        narrow = [
            source or _constant(side, kind) for source, side in zip(sources, sides, strict=True)
        ]
        if all(value is not None for value in narrow):
            for number, value in enumerate(narrow):
                op.operation.operands[number] = value


def _constant(op: ir.OpView | None, kind: ir.Type) -> ir.Value | None:
    """The constant ``op`` as one of type ``kind``, which has the same number."""
    narrow = WIDENED.get(str(kind))
    if narrow is None or op is None or op.operation.name != "arith.constant":
        return None
    value = ir.FloatAttr(op.operation.attributes["value"]).value
    with np.errstate(over="ignore"):
        return arith.constant(kind, value) if float(narrow(value)) == value else None
