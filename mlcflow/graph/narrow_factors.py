"""Products of bf16 and i8 read their factors as they are, instead of widened copies."""

from __future__ import annotations

from collections.abc import Callable

from mlcflow.graph.dot_form import WIDTHS, sizes_suit
from mlcflow.graph.dots import missing_feature
from mlcflow.graph.generic import generic
from mlcflow.graph.linalg_ops import (
    indexing_maps,
    inputs,
    is_copy,
    is_elementwise,
    is_generic,
    is_identity,
    iterators,
    loop_kinds,
    outputs,
    owner,
    payload,
)
from mlcflow.graph.same_operation import element_type
from mlcflow.mlir import arith, ir, linalg, tensor, walk
from mlcflow.target import Target

PRODUCTS = {"linalg.matmul": linalg.matmul, "linalg.batch_matmul": linalg.batch_matmul}

TENSOR_CORES = {("f16", "f32"), ("bf16", "f32")}
_WIDENING = {"f16": "arith.extf", "bf16": "arith.extf", "i8": "arith.extsi"}


def narrow_factors(target: Target) -> Callable[[ir.Module], None]:
    """A step that lets products of f32 that was bf16 read bf16 (of i32 that was i8: read i8).

    Frontends widen both factors first. The product of two bf16, or f16, is exact in f32 and the
    sum is in f32 either way, so the step changes no value. It applies where ``target`` has
    instructions for them and the sizes suit these: elsewhere f32 is as good or better.
    """

    def read_narrow_factors(module: ir.Module) -> None:
        for op in walk(module.operation):
            if op.operation.name in PRODUCTS and len(op.results) == 1:
                _narrow(op, target)

    return read_narrow_factors


def _narrow(op: ir.OpView, target: Target) -> None:
    factors = narrow_inputs(op)
    if factors is None:
        return
    start = outputs(op)[0]
    kind, result = str(element_type(factors[0])), str(element_type(start))
    depth = ir.ShapedType(factors[0].type).shape[-1]
    columns = ir.ShapedType(start.type).shape[-1]
    is_static = all(ir.ShapedType(value.type).has_static_shape for value in factors)
    if is_static and _suits(kind, result, columns, depth, target):
        read_factors(op, factors)


def read_factors(op: ir.OpView, factors: tuple[ir.Value, ir.Value]) -> None:
    """Let ``op``, one of ``PRODUCTS`` or a generic that sums products of floating-point numbers,
    multiply ``factors``, widened to the type of its result.
    """

    def body(left: ir.Value, right: ir.Value, total: ir.Value) -> ir.Value:
        wide = [arith.extf(total.type, each) for each in (left, right)]
        return arith.addf(total, arith.mulf(*wide))

    with ir.InsertionPoint(op), op.location:
        if op.operation.name in PRODUCTS:
            product = PRODUCTS[op.operation.name](*factors, outs=[outputs(op)[0]])
        else:
            maps = [list(each.results) for each in indexing_maps(op)]
            product = generic(factors, outputs(op)[0], maps, loop_kinds(op), body)
    op.results[0].replace_all_uses_with(product)
    op.operation.erase()


def narrow_inputs(op: ir.OpView) -> tuple[ir.Value, ir.Value] | None:
    """What both factors of a product were widened from, if that is of one type."""
    left, right = (_narrower(value) for value in inputs(op))
    if left is None or right is None or element_type(left) != element_type(right):
        return None
    return left, right


def _suits(kind: str, result: str, columns: int, depth: int, target: Target) -> bool:
    if target.kind == "cuda":  # tensor cores; rows of whole 16 bytes
        return (kind, result) in TENSOR_CORES and columns % 8 == 0 and depth % 16 == 0
    width = WIDTHS.get((kind, result))
    return (
        width is not None
        and not missing_feature(kind, target)
        and sizes_suit(columns, depth, width)
    )


def _narrower(value: ir.Value) -> ir.Value | None:
    """What ``value`` was widened from, element by element, perhaps in another order."""
    cast = owner(value)
    if cast is None or not is_elementwise(cast) or len(inputs(cast)) != 1:
        return None
    source = inputs(cast)[0]
    if is_generic(cast) and is_copy(cast):
        return _copy_narrower(cast, source)
    names = [op.operation.name for op in payload(cast)]
    if names != [_WIDENING.get(str(element_type(source)))] or not is_identity(
        indexing_maps(cast)[0]
    ):
        return None
    return source


def _copy_narrower(copy: ir.OpView, source: ir.Value) -> ir.Value | None:
    """The same copy of what was widened to ``source``."""
    narrow = _narrower(source)
    if narrow is None:
        return None
    shape = ir.RankedTensorType(copy.results[0].type).shape
    with ir.InsertionPoint(copy), copy.location:
        space = tensor.empty(list(shape), element_type(narrow))
        maps = [list(each.results) for each in indexing_maps(copy)]
        return generic([narrow], space, maps, iterators(copy), lambda x, _: x)
