"""Scalar expressions as operations of the arith and math dialects."""

from __future__ import annotations

from collections.abc import Callable

from mlcflow.frontends.tensor_program.intrinsics import kind
from mlcflow.frontends.tensor_program.tree import (
    Affine,
    Apply,
    Constant,
    Expression,
    IndexValue,
    Load,
    SizeValue,
    nodes,
)
from mlcflow.mlir import arith, ir, linalg, math
from mlcflow.runtime.dtypes import NUMPY

_WIDE = {"int": "int64", "float": "float64"}

_FLOAT = {
    "add": arith.addf, "sub": arith.subf, "mul": arith.mulf, "div": arith.divf,
    "maximum": arith.maximumf, "minimum": arith.minimumf, "neg": arith.negf, "pow": math.powf,
    "abs": math.absf, "exp": math.exp, "exp2": math.exp2, "expm1": math.expm1, "log": math.log,
    "log2": math.log2, "log10": math.log10, "log1p": math.log1p, "sqrt": math.sqrt,
    "rsqrt": math.rsqrt, "sin": math.sin, "cos": math.cos, "tan": math.tan, "sinh": math.sinh,
    "cosh": math.cosh, "tanh": math.tanh, "atan": math.atan, "erf": math.erf,
    "floor": math.floor, "ceil": math.ceil, "trunc": math.trunc, "round": math.roundeven,
}  # fmt: skip
_INTEGER = {
    "add": arith.addi, "sub": arith.subi, "mul": arith.muli, "and": arith.andi, "or": arith.ori,
    "xor": arith.xori, "shl": arith.shli,
}  # fmt: skip
_SIGNED = {
    "floordiv": arith.floordivsi, "maximum": arith.maxsi, "minimum": arith.minsi,
    "shr": arith.shrsi, "abs": math.absi,
}  # fmt: skip
_UNSIGNED = {
    "floordiv": arith.divui, "mod": arith.remui, "maximum": arith.maxui,
    "minimum": arith.minui, "shr": arith.shrui, "abs": lambda value: value,
}  # fmt: skip
_BY_KIND: dict[str, dict[str, Callable[..., ir.Value]]] = {
    "f": _FLOAT,
    "i": _INTEGER | _SIGNED,
    "u": _INTEGER | _UNSIGNED,
    "b": {"and": arith.andi, "or": arith.ori, "xor": arith.xori},
}
_PREDICATES = {
    "lt": (arith.CmpFPredicate.OLT, arith.CmpIPredicate.slt, arith.CmpIPredicate.ult),
    "le": (arith.CmpFPredicate.OLE, arith.CmpIPredicate.sle, arith.CmpIPredicate.ule),
    "gt": (arith.CmpFPredicate.OGT, arith.CmpIPredicate.sgt, arith.CmpIPredicate.ugt),
    "ge": (arith.CmpFPredicate.OGE, arith.CmpIPredicate.sge, arith.CmpIPredicate.uge),
    "eq": (arith.CmpFPredicate.OEQ, arith.CmpIPredicate.eq, arith.CmpIPredicate.eq),
    "ne": (arith.CmpFPredicate.UNE, arith.CmpIPredicate.ne, arith.CmpIPredicate.ne),
}
"""For floating point, signed and unsigned integers; NaN compares as in Python."""


def scalar_type(dtype: str) -> ir.Type:
    """The MLIR type of an element type; integers are signless. Needs a current context."""
    dtype = _WIDE.get(dtype, dtype)
    floats = {"float64": ir.F64Type, "float32": ir.F32Type, "float16": ir.F16Type}
    if dtype == "bfloat16":
        return ir.BF16Type.get()
    if dtype in floats:
        return floats[dtype].get()
    return ir.IntegerType.get_signless(1 if dtype == "bool" else NUMPY[dtype].itemsize * 8)


def number(value: float, dtype: str) -> ir.Value:
    """A constant of an element type."""
    wide = scalar_type(dtype)
    if kind(dtype) == "f":
        return arith.constant(wide, float(value))
    width = ir.IntegerType(wide).width
    value = int(value)
    # Signless attributes are given as signed numbers; -1 is true.
    signed = value - (1 << width) if value >= 1 << (width - 1) else value
    return arith.ConstantOp(wide, ir.IntegerAttr.get(wide, signed)).result


def emit(
    root: Expression,
    elements: dict[tuple, ir.Value],
    dimensions: dict[str, int],
    sizes: dict[str, ir.Value],
) -> ir.Value:
    """Emit ``root`` at the insertion point, within the body of a ``linalg.generic``.

    ``elements`` are the loaded values by tensor and index, ``dimensions`` the loops by name,
    ``sizes`` the run-time sizes (of type index) by name.
    """
    done: dict[int, ir.Value] = {}
    for node in nodes(root):
        if isinstance(node, Constant):
            value = number(node.value, node.dtype)
        elif isinstance(node, Load):
            value = elements[node.tensor, node.index]
        elif isinstance(node, IndexValue):
            value = _index(node.index, dimensions)
        elif isinstance(node, SizeValue):
            value = arith.index_cast(scalar_type("int64"), sizes[node.symbol.name])
        else:
            value = _apply(node, [done[id(operand)] for operand in node.operands])
        done[id(node)] = value
    return done[id(root)]


def combine(name: str, dtype: str, accumulator: ir.Value, value: ir.Value) -> ir.Value:
    """``accumulator`` with ``value`` added, multiplied, ... to it."""
    return _BY_KIND[kind(dtype)][name](accumulator, value)


def _index(index: Affine, dimensions: dict[str, int]) -> ir.Value:
    wide = scalar_type("int64")
    total = number(index.constant, "int64") if index.constant or not index.terms else None
    for name, coefficient in index.terms:
        term = arith.index_cast(wide, linalg.IndexOp(dimensions[name]).result)
        if coefficient != 1:
            term = arith.muli(term, number(coefficient, "int64"))
        total = term if total is None else arith.addi(total, term)
    assert total is not None
    return total


def _apply(node: Apply, operands: list[ir.Value]) -> ir.Value:
    dtype = node.operands[0].dtype
    of_kind = kind(dtype)
    if node.operation == "cast":
        return _cast(operands[0], dtype, node.dtype)
    if node.operation == "select":
        return arith.select(*operands)
    if node.operation in _PREDICATES:
        of_floats, of_signed, of_unsigned = _PREDICATES[node.operation]
        if of_kind == "f":
            return arith.cmpf(of_floats, *operands)
        return arith.cmpi(of_unsigned if of_kind in "ub" else of_signed, *operands)
    if node.operation in ("not", "invert"):
        return arith.xori(operands[0], number(1 if of_kind == "b" else _ones(dtype), dtype))
    if node.operation == "neg" and of_kind != "f":
        return arith.subi(number(0, dtype), operands[0])
    if node.operation == "mod" and of_kind == "i":  # of the sign of the divisor, as in Python
        quotient = arith.floordivsi(*operands)
        return arith.subi(operands[0], arith.muli(quotient, operands[1]))
    return _BY_KIND[of_kind][node.operation](*operands)


def _ones(dtype: str) -> int:
    return (1 << ir.IntegerType(scalar_type(dtype)).width) - 1


def _cast(value: ir.Value, source: str, target: str) -> ir.Value:
    """``value`` as ``target``: numpy's ``astype``."""
    before, after = kind(source), kind(target)
    wide = scalar_type(target)
    if value.type == wide and "b" not in (before, after):
        return value
    if after == "b":
        zero = number(0, source)
        predicate = _PREDICATES["ne"]
        if before == "f":
            return arith.cmpf(predicate[0], value, zero)
        return value if before == "b" else arith.cmpi(predicate[1], value, zero)
    if before == "f" and after == "f":
        return _resize(value, wide, arith.extf, arith.truncf)
    if before == "f":
        return (arith.fptosi if after == "i" else arith.fptoui)(wide, value)
    if after == "f":
        return (arith.sitofp if before == "i" else arith.uitofp)(wide, value)
    return _resize(value, wide, arith.extsi if before == "i" else arith.extui, arith.trunci)


def _resize(value: ir.Value, wide: ir.Type, extend: Callable, truncate: Callable) -> ir.Value:
    before, after = value.type.width, wide.width
    if before == after and value.type != wide:  # between f16 and bf16
        return truncate(wide, extend(ir.F32Type.get(), value))
    if before == after:
        return value
    return (extend if before < after else truncate)(wide, value)
