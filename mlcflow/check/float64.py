"""Running a module of linalg on tensors in float64, with or without bounds of the errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlcflow.check.bounds import VALUES, Arithmetic, Number
from mlcflow.check.conversions import Unsupported, integer_type
from mlcflow.check.loops64 import generic
from mlcflow.check.scalars import element, scalar
from mlcflow.check.scan64 import scan
from mlcflow.check.tensors64 import TENSORS
from mlcflow.graph.linalg_ops import captured
from mlcflow.mlir import clone, func, ir
from mlcflow.passes import Pass

Call = Callable[[func.CallOp, list[Number]], list[Number]]


def spell_out(module: ir.Module) -> ir.Module:
    """A copy in which every linalg operation is a generic: what :func:`evaluate` reads."""
    copy = clone(module)
    with copy.context, ir.Location.unknown():
        Pass("linalg-generalize-named-ops", on="func.func")(copy)
    return copy


def functions(module: ir.Module) -> dict[str, func.FuncOp]:
    """The functions of a module by name."""
    found = (op for op in module.body.operations if isinstance(op, func.FuncOp))
    return {op.name.value: op for op in found}


def evaluate(
    function: func.FuncOp,
    arguments: Sequence[Number],
    how: Arithmetic = VALUES,
    *,
    call: Call | None = None,
) -> list[Number]:
    """The results of ``function``, which :func:`spell_out` has prepared, for these arguments.

    ``call`` gives the results of the functions that it calls; without it they are evaluated
    too. Raises ``Unsupported`` for an operation whose meaning in float64 nobody has written
    down: complex numbers, loops with state, memory, most of tm_tensor.
    """
    return _Walk(how, call)(function.entry_block, dict(zip(function.arguments, arguments,
                                                          strict=True)))  # fmt: skip


class _Walk:
    """Evaluates blocks, and forgets each value after its last use."""

    def __init__(self, how: Arithmetic, call: Call | None) -> None:
        self.how, self.call = how, call
        self.known_functions: dict[str, func.FuncOp] = {}

    def __call__(self, block: ir.Block, known: dict[ir.Value, Number]) -> list[Number]:
        operations = list(block.operations)
        last: dict[ir.Value, int] = {}
        for number, op in enumerate(operations):
            for value in [*op.operands, *captured(op)]:
                last[value] = number
        for number, op in enumerate(operations[:-1]):
            results = self.one(op, known)
            known.update(zip(op.results, results, strict=True))
            for value in {*op.operands, *captured(op)}:
                if last[value] == number:
                    known.pop(value, None)
        return [known[value] for value in operations[-1].operands]

    def one(self, op: ir.OpView, known: dict[ir.Value, Number]) -> list[Number]:
        """The results of one operation."""
        name = op.operation.name
        if name == "linalg.generic":
            return generic(op, known, self.how, self.one)
        if name == "func.call":
            return self._call(op, [known[value] for value in op.operands])
        if name == "arith.constant":
            return [constant(op)]
        if name in ("cf.assert", "linalg.yield"):
            return []
        if name in TENSORS:
            return [TENSORS[name](op, [known[value] for value in op.operands])]
        if name == "tensor.pad":
            return [self._pad(op, known)]
        if name == "scf.if":
            return self._branch(op, known)
        if name == "tm_tensor.scan":
            return scan(op, [known[value] for value in op.operands], self.how)
        if name.startswith(("arith.", "math.")):
            return [scalar(op, [known[value] for value in op.operands], self.how)]
        raise Unsupported(f"{name}: no rule for it in float64")

    def _call(self, op: func.CallOp, operands: list[Number]) -> list[Number]:
        if self.call is not None:
            return self.call(op, operands)
        body = op.operation.parent.parent.regions[0].blocks[0]
        callee = op.callee.value
        for function in body.operations:
            if not isinstance(function, func.FuncOp) or function.name.value != callee:
                continue
            if not function.is_external:
                return evaluate(function, operands, self.how)
        raise Unsupported(f"func.call: nobody knows what '{callee}' does")

    def _pad(self, op: ir.OpView, known: dict[ir.Value, Number]) -> Number:
        block = op.operation.regions[0].blocks[0]
        value = self(block, dict(known))[0]  # of a pad whose border is one number
        if value.error is not None or value.value.ndim:
            raise Unsupported("tensor.pad: a border that is computed")
        low, high = (list(ir.DenseI64ArrayAttr(op.attributes[key]))
                     for key in ("static_low", "static_high"))  # fmt: skip
        rest = iter(int(known[each].value) for each in list(op.operands)[1:])
        widths = [[next(rest) if n < 0 else n for n in side] for side in (low, high)]
        pairs = list(zip(*widths, strict=True))
        source = known[op.operands[0]]
        padded = np.pad(source.value, pairs, constant_values=value.value)
        error = None if source.error is None else np.pad(source.errors, pairs)
        return Number(padded, error)

    def _branch(self, op: ir.OpView, known: dict[ir.Value, Number]) -> list[Number]:
        condition = known[op.operands[0]]
        if condition.value.ndim or (condition.error is not None and condition.error.any()):
            raise Unsupported("scf.if: whether it holds depends on rounding, or on the element")
        region = op.operation.regions[0 if condition.value else 1]
        return self(region.blocks[0], dict(known)) if region.blocks else []


def constant(op: ir.OpView) -> Number:
    """The value of an ``arith.constant``."""
    attribute, kind = op.attributes["value"], op.results[0].type
    inner = element(kind)
    if isinstance(kind, ir.ShapedType):
        return Number(_dense(attribute, ir.ShapedType(kind), inner))
    value: Any
    if isinstance(attribute, ir.BoolAttr):
        return Number(np.asarray(ir.BoolAttr(attribute).value))
    if isinstance(inner, ir.FloatType):
        value = np.asarray(ir.FloatAttr(attribute).value, np.float64)
    else:
        value = np.asarray(ir.IntegerAttr(attribute).value).astype(integer_type(inner))
    return Number(value)


def _dense(attribute: ir.Attribute, kind: ir.ShapedType, inner: ir.Type) -> np.ndarray:
    if not isinstance(attribute, ir.DenseElementsAttr):
        raise Unsupported(f"arith.constant: elements of {type(attribute).__name__}")
    if attribute.is_splat:
        single = attribute.get_splat_value()
        value = ir.FloatAttr(single).value if isinstance(inner, ir.FloatType) else (
            ir.BoolAttr(single).value if isinstance(single, ir.BoolAttr)
            else ir.IntegerAttr(single).value)  # fmt: skip
        dtype = np.float64 if isinstance(inner, ir.FloatType) else integer_type(inner)
        return np.broadcast_to(np.asarray(value).astype(dtype), kind.shape)
    array = np.array(attribute)
    if isinstance(inner, ir.FloatType):
        return array.astype(np.float64)
    return array.astype(integer_type(inner))
