"""Operators on values: computed now on numbers, affine on indices, else scalar operations."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from mlcflow.frontends.tensor_program.scope import INVALID, Scope, Value
from mlcflow.frontends.tensor_program.tree import Affine, Apply
from mlcflow.frontends.tensor_program.typed import as_expression, is_number, operate, unify

BINARY: dict[type, tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("add", operator.add),
    ast.Sub: ("sub", operator.sub),
    ast.Mult: ("mul", operator.mul),
    ast.Div: ("div", operator.truediv),
    ast.FloorDiv: ("floordiv", operator.floordiv),
    ast.Mod: ("mod", operator.mod),
    ast.Pow: ("pow", operator.pow),
    ast.BitAnd: ("and", operator.and_),
    ast.BitOr: ("or", operator.or_),
    ast.BitXor: ("xor", operator.xor),
    ast.LShift: ("shl", operator.lshift),
    ast.RShift: ("shr", operator.rshift),
}
COMPARE: dict[type, tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Lt: ("lt", operator.lt),
    ast.LtE: ("le", operator.le),
    ast.Gt: ("gt", operator.gt),
    ast.GtE: ("ge", operator.ge),
    ast.Eq: ("eq", operator.eq),
    ast.NotEq: ("ne", operator.ne),
}


def combine(scope: Scope, node: ast.AST, op: ast.operator, left: Value, right: Value) -> Value:
    """``left op right``: computed now if both are numbers; an index if it stays affine."""
    if INVALID in (left, right):
        return INVALID
    if type(op) not in BINARY:
        return scope.report(node, f"unsupported operator {type(op).__name__}")
    name, function = BINARY[type(op)]
    if is_number(left) and is_number(right):
        return fold(scope, node, function, left, right)
    affine = _affine(name, left, right)
    if affine is not None:
        return affine
    exponent = type(right) is int and name == "pow" and 1 <= right <= 4
    base = as_expression(scope, node, left) if exponent else None
    if base is not None:  # small powers are products, for integers too
        power: Value = base
        for _ in range(right - 1):
            power = operate(scope, node, "mul", [power, base])
        return power
    return operate(scope, node, name, [left, right])


def _affine(name: str, left: Value, right: Value) -> Affine | int | None:
    """The result if it is an index again."""
    operands = []
    for value in (left, right):
        if type(value) is int:
            value = Affine((), value)
        if not isinstance(value, Affine):
            return None
        operands.append(value)
    a, b = operands
    if name in ("add", "sub"):
        result = a + (b if name == "add" else b.scaled(-1))
    elif name == "mul" and not (a.terms and b.terms):
        result = a.scaled(b.constant) if a.terms else b.scaled(a.constant)
    else:
        return None
    return result if result.terms else result.constant


def fold(scope: Scope, node: ast.AST, function: Callable[..., Any], *numbers: Any) -> Value:
    """A number computed now."""
    try:
        value = function(*numbers)
    except (ArithmeticError, ValueError, TypeError) as error:
        return scope.report(node, f"cannot be computed: {error}")
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, bool | int | float):
        return scope.report(node, f"expected a real number, found {value!r}")
    return value


def choose(scope: Scope, node: ast.AST, values: list[Value]) -> Value:
    """``values[1]`` where the condition ``values[0]`` holds, else ``values[2]``."""
    if INVALID in values:
        return INVALID
    if is_number(values[0]):
        return values[1] if values[0] else values[2]
    operands = [as_expression(scope, node, value) for value in values]
    condition, yes, no = operands
    if condition is None or yes is None or no is None:
        return INVALID
    if condition.dtype != "bool":
        return scope.report(node, f"select: expected a bool condition, found {condition.dtype}")
    branches = unify(scope, node, "select", [yes, no])
    if not branches:
        return INVALID
    return Apply("select", (condition, *branches), branches[0].dtype)
