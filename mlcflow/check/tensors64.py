"""The operations of ``tensor`` that move elements, on numbers with error bounds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mlcflow.check.bounds import Number
from mlcflow.check.conversions import Unsupported, integer_type
from mlcflow.mlir import ir

DYNAMIC = ir.ShapedType.get_dynamic_size()


def _empty(op: ir.OpView, x: list[Number]) -> Number:
    kind = ir.RankedTensorType(op.results[0].type)
    sizes = iter(int(each.value) for each in x)
    shape = [next(sizes) if size == DYNAMIC else size for size in kind.shape]
    floating = isinstance(kind.element_type, ir.FloatType)
    dtype = np.float64 if floating else integer_type(kind.element_type)
    return Number(np.broadcast_to(np.zeros((), dtype), shape))


def _ranges(op: ir.OpView, x: list[Number]) -> tuple[slice, ...]:
    """The part of a tensor that a slice is; ``x``: the offsets, sizes and strides in operands."""
    rest = iter(int(each.value) for each in x)
    lists = [
        [next(rest) if number == DYNAMIC else number for number in ir.DenseI64ArrayAttr(values)]
        for values in (op.attributes[f"static_{name}"] for name in ("offsets", "sizes", "strides"))
    ]
    return tuple(
        slice(offset, offset + (size - 1) * stride + 1 if size else offset, stride)
        for offset, size, stride in zip(*lists, strict=True)
    )


def _extract_slice(op: ir.OpView, x: list[Number]) -> Number:
    ranges = _ranges(op, x[1:])
    kind = ir.RankedTensorType(op.results[0].type)
    part = x[0].map(lambda array: array[ranges])
    return part.map(lambda array: array.reshape(_fit(array.shape, list(kind.shape))))


def _fit(found: tuple[int, ...], wanted: list[int]) -> list[int]:
    """``wanted``, with the sizes that are open taken from the slice that was found."""
    if DYNAMIC not in wanted:
        return wanted
    if len(found) != len(wanted):
        raise Unsupported("tensor.extract_slice: of open size, with fewer dimensions")
    return list(found)


def _insert_slice(op: ir.OpView, x: list[Number]) -> Number:
    ranges = _ranges(op, x[2:])

    def insert(into: np.ndarray, part: np.ndarray) -> np.ndarray:
        copy = np.array(into)
        copy[ranges] = part.reshape(copy[ranges].shape)
        return copy

    value = insert(x[1].value, x[0].value)
    if x[0].error is None and x[1].error is None:
        return Number(value)
    return Number(value, insert(x[1].errors, x[0].errors))


def _reshape(op: ir.OpView, x: list[Number]) -> Number:
    shape = list(ir.RankedTensorType(op.results[0].type).shape)
    if shape.count(DYNAMIC) > 1:
        raise Unsupported(f"{op.operation.name}: more than one open size")
    target = [-1 if size == DYNAMIC else size for size in shape]
    return x[0].map(lambda array: array.reshape(target))


def _concat(op: ir.OpView, x: list[Number]) -> Number:
    axis = ir.IntegerAttr(op.attributes["dim"]).value
    value = np.concatenate([each.value for each in x], axis)
    if all(each.error is None for each in x):
        return Number(value)
    return Number(value, np.concatenate([each.errors for each in x], axis))


def _extract(op: ir.OpView, x: list[Number]) -> Number:
    """Elements of a tensor at positions that may be arrays, as in the body of a generic."""
    if len(x) == 1:
        return x[0]
    sizes = x[0].value.shape
    positions = [
        # A position out of range is never used: an assertion fails, or it is masked.
        np.clip(each.value, 0, max(0, size - 1))
        for each, size in zip(x[1:], sizes, strict=True)
    ]
    value = x[0].value[tuple(positions)]
    if value.dtype.kind not in "iub":
        value = value.astype(np.float64)
    error = None if x[0].error is None else x[0].errors[tuple(positions)]
    for each in x[1:]:
        if each.error is not None:
            unsure = np.where(each.error > 0, np.inf, 0.0)
            error = unsure if error is None else np.maximum(error, unsure)
    return Number(value, error)


def _dim(op: ir.OpView, x: list[Number]) -> Number:
    return Number(np.asarray(x[0].value.shape[int(x[1].value)], np.int64))


def _from_elements(op: ir.OpView, x: list[Number]) -> Number:
    shape = list(ir.RankedTensorType(op.results[0].type).shape)
    value = np.stack([each.value for each in x]).reshape(shape)
    if all(each.error is None for each in x):
        return Number(value)
    return Number(value, np.stack([each.errors for each in x]).reshape(shape))


def _splat(op: ir.OpView, x: list[Number]) -> Number:
    shape = list(ir.RankedTensorType(op.results[0].type).shape)
    return x[0].map(lambda array: np.broadcast_to(array, shape))


def _same(op: ir.OpView, x: list[Number]) -> Number:
    return x[0]


TENSORS: dict[str, Callable[[ir.OpView, list[Number]], Number]] = {
    "tensor.cast": _same,
    "tensor.collapse_shape": _reshape,
    "tensor.concat": _concat,
    "tensor.dim": _dim,
    "tensor.empty": _empty,
    "tensor.expand_shape": _reshape,
    "tensor.extract": _extract,
    "tensor.extract_slice": _extract_slice,
    "tensor.from_elements": _from_elements,
    "tensor.insert_slice": _insert_slice,
    "tensor.splat": _splat,
}
