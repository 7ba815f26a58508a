"""Building typed scalar operations: numbers of Python adapt, other types must agree."""

from __future__ import annotations

import ast

from mlcflow.frontends.tensor_program.intrinsics import KIND_NAMES, OPERATIONS, WEAK, kind
from mlcflow.frontends.tensor_program.scope import EXPRESSION, INVALID, Scope, Stale, Value
from mlcflow.frontends.tensor_program.tree import (
    Affine,
    Apply,
    Constant,
    Expression,
    IndexValue,
    Load,
    SizeValue,
    Symbol,
    loads,
)


def is_number(value: Value) -> bool:
    """Whether ``value`` is a number known now."""
    return isinstance(value, bool | int | float)


def as_expression(scope: Scope, node: ast.AST, value: Value) -> Expression | None:
    """``value`` as a scalar; ``None``, with a problem reported, when it is none."""
    if isinstance(value, EXPRESSION):
        return value
    if isinstance(value, bool):
        return Constant(value, "bool")
    if isinstance(value, int | float):
        return Constant(value, type(value).__name__)
    if isinstance(value, Affine):
        return IndexValue(value)
    if isinstance(value, Symbol):
        return SizeValue(value)
    if value is not INVALID:
        scope.report(node, f"expected a number, found {describe(value)}")
    return None


def describe(value: Value) -> str:
    """What a value is, for messages."""
    name = getattr(value, "name", None) or getattr(value, "__name__", None)
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, Stale) or name is None:
        return f"a {type(value).__name__}"
    return f"'{name}'" if callable(value) else f"the whole of '{name}' (index it)"


def operate(scope: Scope, node: ast.AST, name: str, values: list[Value]) -> Value:
    """The operation on values; reports operands that are no numbers or of unfit types."""
    operands = [as_expression(scope, node, value) for value in values]
    if any(operand is None for operand in operands):
        return INVALID
    operation = OPERATIONS[name]
    if len(operands) != operation.arity:
        return scope.report(
            node, f"{operation.symbol}: expected {operation.arity} operands, found {len(operands)}"
        )
    unified = unify(scope, node, operation.symbol, [x for x in operands if x is not None])
    if not unified:
        return INVALID
    dtype = unified[0].dtype
    if dtype == "int" and operation.kinds == "f":
        dtype = "float"
        unified = [convert(operand, dtype) for operand in unified]
    if kind(dtype) not in operation.kinds:
        expected = " or ".join(KIND_NAMES[k] for k in operation.kinds)
        return scope.report(
            node, f"{operation.symbol}: expected {expected} operands, found {dtype}; use cast"
        )
    return Apply(name, tuple(unified), operation.result or dtype)


def unify(scope: Scope, node: ast.AST, symbol: str, operands: list[Expression]) -> list[Expression]:
    """The operands as one type; empty, with a problem reported, when their types differ."""
    strong = list(dict.fromkeys(x.dtype for x in operands if x.dtype not in WEAK))
    if len(strong) > 1:
        named = " and ".join(_named(x) for x in operands)
        scope.report(node, f"{symbol}: expected operands of one type, found {named}; use cast")
        return []
    if strong:
        dtype = strong[0]
    else:
        dtype = "float" if any(x.dtype == "float" for x in operands) else "int"
    for operand in operands:
        if not fits(operand, dtype):
            scope.report(node, f"{symbol}: {misfit(operand, dtype)}")
            return []
    return [convert(operand, dtype) for operand in operands]


def _named(expression: Expression) -> str:
    reads = list(dict.fromkeys(load.tensor for load in loads(expression)))
    if isinstance(expression, Load):
        return f"{expression.dtype} ('{expression.tensor}')"
    return f"{expression.dtype}" + (f" (from {', '.join(map(repr, reads))})" if reads else "")


def fits(expression: Expression, dtype: str) -> bool:
    """Whether the expression has the type, or is a Python number that it can represent."""
    if expression.dtype == dtype:
        return True
    if expression.dtype not in WEAK or kind(dtype) == "b":
        return False
    return kind(dtype) == "f" or expression.dtype == "int"


def misfit(expression: Expression, dtype: str) -> str:
    """Why the expression does not fit the type, as a sentence."""
    shown = f"the number {expression.value}" if isinstance(expression, Constant) else ""
    shown = shown or _named(expression)
    return f"expected {dtype}, found {shown}; use cast"


def convert(expression: Expression, dtype: str) -> Expression:
    """The expression as that type, which it fits or is cast to."""
    if expression.dtype == dtype:
        return expression
    if isinstance(expression, Constant) and kind(dtype) != "b":
        number = float(expression.value) if kind(dtype) == "f" else int(expression.value)
        return Constant(number, dtype)
    return Apply("cast", (expression,), dtype)
