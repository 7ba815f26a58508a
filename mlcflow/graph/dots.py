"""Dot products of the x86 dialect: for the processor that has them, and for any other."""

from __future__ import annotations

from collections.abc import Callable

from mlcflow.errors import LoweringError
from mlcflow.mlir import arith, ir, llvm, vector, walk, x86
from mlcflow.target import Target

BF16, I8 = ("x86.avx512.dot",), ("x86.avx10.dot.i8", "x86.avx.dot.i8")
INSTRUCTIONS = frozenset(BF16 + I8)
"""``dot(acc, a, b)``: each lane of ``acc`` plus the products of its 2 (bf16) or 4 (i8, signed)
elements of ``a`` and ``b``."""

FEATURES = {"bf16": ("avx512bf16",), "i8": ("avx10.2", "avx512vnni", "avxvnniint8", "avxvnni")}
"""LLVM features with such instructions, by element type, the one to prefer first."""

_SIGNED = ("avx10.2", "avxvnniint8")  # the others multiply unsigned by signed numbers
_WIDE = ("avx10.2", "avx512vnni")  # 16 lanes, the others 8


Part = tuple[ir.Value, int]
"""A vector, and the lane from which on a part of it is meant."""

Sums = dict[Part, ir.Value]
"""128 times the sum of the elements in each lane."""


def missing_feature(kind: str, target: Target) -> str:
    """What keeps ``target`` from dot products of ``kind`` (bf16 or i8); empty if nothing does."""
    if _feature(kind, target):
        return ""
    names = " or ".join(FEATURES[kind])
    has = ", ".join(target.features) or "none"
    return f"dot products of {kind} need {names}, which target {target} lacks (it has: {has})"


def _feature(kind: str, target: Target) -> str:
    return next((name for name in FEATURES[kind] if name in target.features), "")


def lower_dots(target: Target) -> Callable[[ir.Module], None]:
    """A step that makes the dot products in a module those that ``target`` has.

    bf16 are left to upstream's conversion to LLVM. i8, which are signed by signed, become
    ``vpdpbusd`` where only unsigned by signed numbers are multiplied. Raises ``LoweringError``
    that names the missing feature; LLVM itself would end the process.
    """

    def lower_dot_products(module: ir.Module) -> None:
        found = [op for op in walk(module.operation) if op.operation.name in INSTRUCTIONS]
        for kind, names in (("bf16", BF16), ("i8", I8)):
            some = [op for op in found if op.operation.name in names]
            problem = missing_feature(kind, target) if some else ""
            if problem:
                raise LoweringError(
                    f"{problem}; choose another target, or leave 'x86.dot' out of the schedule",
                    op=some[0].operation.name,
                    location=str(some[0].location),
                )
            if kind == "i8" and some:
                _lower_i8(some, _feature(kind, target))

    return lower_dot_products


def _lower_i8(dots: list[ir.OpView], feature: str) -> None:
    sums: Sums = {}
    for op in dots:
        accumulator, a, b = op.operands
        with ir.InsertionPoint(op), op.location:
            if not _is_wide(accumulator) or feature in _WIDE:
                result = _one(feature, accumulator, a, b, sums, (b, 0))
            else:
                result = accumulator
                for start in (0, 8):  # two products of 8 lanes for one of 16
                    part = _part(accumulator, start, 8)
                    left, right = (_part(value, 4 * start, 32) for value in (a, b))
                    half = _one(feature, part, left, right, sums, (b, start))
                    result = vector.insert_strided_slice(half, result, [start], [1])
        op.results[0].replace_all_uses_with(result)
        op.operation.erase()


def _is_wide(accumulator: ir.Value) -> bool:
    return ir.VectorType(accumulator.type).shape == [16]


def _part(value: ir.Value, start: int, size: int) -> ir.Value:
    kind = ir.VectorType.get([size], ir.VectorType(value.type).element_type)
    return vector.extract_strided_slice(kind, value, [start], [size], [1])


def _one(
    feature: str, accumulator: ir.Value, a: ir.Value, b: ir.Value, sums: Sums, key: Part
) -> ir.Value:
    """The dot product of signed numbers by an instruction of ``feature``; ``key`` stands for b."""
    if feature in _SIGNED:
        operation = x86.AVX10DotInt8Op if _is_wide(accumulator) else x86.DotInt8Op
        return operation(accumulator, a, b).result
    # (a + 128) b - 128 b: as an unsigned number, a with its sign bit turned is a + 128. What is
    # subtracted depends on b alone, which all rows share. All is modulo 2^32, so it is exact.
    signs = _splat(a.type, -128)
    if key not in sums:
        sums[key] = _vpdpbusd(_splat(accumulator.type, 0), signs, b)
    return _vpdpbusd(arith.subi(accumulator, sums[key]), arith.xori(a, signs), b)


def _vpdpbusd(accumulator: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    """The sums of unsigned elements of ``a`` times signed ones of ``b``, added to each lane."""
    bits = 32 * ir.VectorType(accumulator.type).shape[0]
    name = f"llvm.x86.avx512.vpdpbusd.{bits}"
    call = llvm.CallIntrinsicOp(accumulator.type, name, [accumulator, a, b], [], [])
    return call.results[0]


def _splat(kind: ir.Type, number: int) -> ir.Value:
    element = ir.IntegerAttr.get(ir.VectorType(kind).element_type, number)
    return arith.constant(kind, ir.DenseElementsAttr.get_splat(kind, element))


def spell_out_dots(module: ir.Module) -> None:
    """Write dot products as multiplications and additions, which every processor has.

    So the reference lowering runs them anywhere, and checks what the instructions compute.
    """
    for op in walk(module.operation):
        if op.operation.name in INSTRUCTIONS:
            with ir.InsertionPoint(op), op.location:
                result = _spelled_out(*op.operands)
            op.results[0].replace_all_uses_with(result)
            op.operation.erase()


def _spelled_out(accumulator: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    kind = accumulator.type
    is_float = isinstance(ir.VectorType(kind).element_type, ir.FloatType)
    widen, times, plus = (
        (arith.extf, arith.mulf, arith.addf) if is_float else (arith.extsi, arith.muli, arith.addi)
    )
    for left, right in zip(_neighbours(a, kind), _neighbours(b, kind), strict=True):
        accumulator = plus(accumulator, times(widen(kind, left), widen(kind, right)))
    return accumulator


def _neighbours(value: ir.Value, kind: ir.Type) -> list[ir.Value]:
    """The elements of each lane of ``kind``: a vector of the first ones, of the second ones, ..."""
    count = ir.VectorType(kind).shape[0]
    parts = [value]
    while ir.VectorType(parts[0].type).shape[0] > count:
        halves = [vector.deinterleave(part) for part in parts]
        parts = [half[0] for half in halves] + [half[1] for half in halves]
    return parts
