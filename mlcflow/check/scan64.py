"""``tm_tensor.scan`` in float64: sums of all that comes before, with error bounds."""

from __future__ import annotations

import numpy as np

from mlcflow.check.bounds import Arithmetic, Number
from mlcflow.check.conversions import Unsupported
from mlcflow.mlir import ir


def scan(op: ir.OpView, x: list[Number], how: Arithmetic) -> list[Number]:
    """The sums along a dimension, and the last of them. Raises ``Unsupported`` for products."""
    block = op.operation.regions[0].blocks[0]
    names = [inner.operation.name for inner in block.operations][:-1]
    if names not in (["arith.addf"], ["arith.addi"]):
        raise Unsupported("tm_tensor.scan: of something else than a sum")
    axis = ir.IntegerAttr(op.attributes["dimension"]).value
    inclusive = ir.BoolAttr(op.attributes["inclusive"]).value
    if not inclusive:
        raise Unsupported("tm_tensor.scan: without the element itself")
    terms, start = x[0], x[2]
    first = np.expand_dims(start.value, axis)
    value = np.cumsum(terms.value, axis, dtype=first.dtype) + first
    number = Number(value)
    if names == ["arith.addf"] and how.keeps:
        sizes = np.cumsum(np.abs(terms.value), axis) + np.abs(first)
        kind = str(block.operations[0].results[0].type)
        inherited = None
        if terms.error is not None:
            parts = np.cumsum(np.square(terms.errors) if how.squares else terms.errors, axis)
            inherited = np.sqrt(parts) if how.squares else parts
        growth = how.growth(terms.value.shape[axis], kind)
        number = how.rounded(value, how.add(inherited, growth * sizes), kind, 0)
    return [number, number.map(lambda array: array.take(-1, axis))]
