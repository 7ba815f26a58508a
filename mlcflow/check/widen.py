"""A model in float64: what its results would be without rounding, nearly."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlcflow.errors import MlcflowError
from mlcflow.mlir import ir, walk
from mlcflow.runtime.dtypes import is_tensor

_CASTS = ("arith.extf", "arith.truncf")
_REFUSED = ("arith.bitcast", "tensor.bitcast")


def widen(module: ir.Module) -> None:
    """Give every number of ``module`` with fraction the type ``f64``; a model on tensors.

    Conversions between such types go away, constants keep their values. Raises
    ``MlcflowError`` where the model looks at the bits of a number.
    """
    with module.context, ir.Location.unknown():
        for op in walk(module.operation):
            _widen_operation(op)


def _widen_operation(op: ir.OpView) -> None:
    operation = op.operation
    if operation.name in _REFUSED:
        raise MlcflowError(f"{operation.name} looks at the bits of a number: no float64 of it")
    for value in [*operation.results, *_arguments(operation)]:
        value.set_type(widened(value.type))
    for name in operation.attributes:
        attribute = operation.attributes[name]
        if isinstance(attribute, ir.TypeAttr):
            operation.attributes[name] = ir.TypeAttr.get(widened(attribute.value))
        elif name == "value":
            operation.attributes[name] = _constant(attribute)
    if operation.name in _CASTS:
        operation.results[0].replace_all_uses_with(operation.operands[0])
        operation.erase()


def _arguments(operation: ir.Operation) -> list[ir.Value]:
    return [v for region in operation.regions for block in region.blocks for v in block.arguments]


def widened(kind: ir.Type) -> ir.Type:
    """The type with ``f64`` for each smaller floating-point type in it."""
    if isinstance(kind, ir.FloatType):
        return ir.F64Type.get()
    if isinstance(kind, ir.ComplexType):
        return ir.ComplexType.get(widened(kind.element_type))
    if isinstance(kind, ir.RankedTensorType):
        return ir.RankedTensorType.get(kind.shape, widened(kind.element_type), kind.encoding)
    if isinstance(kind, ir.VectorType):
        return ir.VectorType.get(kind.shape, widened(kind.element_type))
    if isinstance(kind, ir.FunctionType):
        return ir.FunctionType.get(
            list(map(widened, kind.inputs)), list(map(widened, kind.results))
        )
    return kind


def _constant(attribute: ir.Attribute) -> ir.Attribute:
    if isinstance(attribute, ir.FloatAttr):
        return ir.FloatAttr.get(ir.F64Type.get(), attribute.value)
    if isinstance(attribute, ir.DenseElementsAttr):
        shaped = ir.RankedTensorType(attribute.type)
        if isinstance(shaped.element_type, ir.FloatType):
            return _elements(attribute, shaped)
    return attribute


def _elements(attribute: ir.DenseElementsAttr, shaped: ir.RankedTensorType) -> ir.Attribute:
    double = ir.F64Type.get()
    if attribute.is_splat:
        value = ir.FloatAttr(attribute.get_splat_value()).value
        return ir.DenseElementsAttr.get_splat(
            ir.RankedTensorType.get(shaped.shape, double), ir.FloatAttr.get(double, value)
        )
    if not isinstance(attribute, ir.DenseFPElementsAttr):
        raise MlcflowError(f"a constant of type {shaped}: no float64 of it")
    values = np.array([attribute[i] for i in range(len(attribute))], np.float64)
    return ir.DenseElementsAttr.get(values.reshape(shaped.shape), type=double)


def wide_array(value: Any) -> np.ndarray:
    """The array or tensor with its numbers with fraction as float64; others as they are."""
    if is_tensor(value):
        value = value.detach()
        wide = value.double() if value.is_floating_point() else value
        return np.asarray(wide.numpy())
    kind = "complex128" if value.dtype.kind == "c" else "float64"
    small = value.dtype.kind in "fc" or value.dtype.name == "bfloat16"
    return value.astype(kind) if small else value
