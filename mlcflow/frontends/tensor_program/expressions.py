"""From Python expressions to values: numbers, indices, elements and what is computed of them."""

from __future__ import annotations

import ast
import operator
import types
from collections.abc import Callable
from typing import Any

from mlcflow import language
from mlcflow.errors import MlcflowError
from mlcflow.frontends.tensor_program.access import check_bounds
from mlcflow.frontends.tensor_program.arithmetic import COMPARE, choose, combine, fold
from mlcflow.frontends.tensor_program.scope import (
    INVALID,
    Scope,
    TensorName,
    Value,
)
from mlcflow.frontends.tensor_program.tree import Affine, Load, Symbol, TensorType
from mlcflow.frontends.tensor_program.typed import (
    as_expression,
    convert,
    describe,
    is_number,
    operate,
)


def evaluate(scope: Scope, node: ast.expr) -> Value:
    """The value of an expression; problems are reported to ``scope``, and give ``INVALID``."""
    handler = _HANDLERS.get(type(node))
    if handler is None:
        return scope.report(node, f"unsupported expression '{ast.unparse(node)}'")
    return handler(scope, node)


def _constant(scope: Scope, node: ast.Constant) -> Value:
    if isinstance(node.value, bool | int | float | str):
        return node.value
    return scope.report(node, f"expected a number, found {ast.unparse(node)}")


def _name(scope: Scope, node: ast.Name) -> Value:
    return scope.look_up(node)


def _tuple(scope: Scope, node: ast.Tuple | ast.List) -> Value:
    values = tuple(evaluate(scope, item) for item in node.elts)
    return INVALID if INVALID in values else values


def _attribute(scope: Scope, node: ast.Attribute) -> Value:
    owner = evaluate(scope, node.value)
    if isinstance(owner, TensorName):
        kind = scope.type_of(owner.name)
        fields = {"shape": kind.shape, "dtype": kind.dtype, "ndim": len(kind.shape)}
        if node.attr in fields:
            return fields[node.attr]
        return scope.report(
            node, f"'{owner.name}.{node.attr}': a tensor has shape, dtype and ndim only"
        )
    if isinstance(owner, types.ModuleType):
        try:
            return getattr(owner, node.attr)
        except AttributeError:
            return scope.report(node, f"module '{owner.__name__}' has no '{node.attr}'")
    if owner is INVALID:
        return INVALID
    return scope.report(node, f"'{ast.unparse(node)}': expected a module or a tensor before '.'")


def _subscript(scope: Scope, node: ast.Subscript) -> Value:
    owner = evaluate(scope, node.value)
    if isinstance(owner, TensorName):
        index = read_index(scope, node, owner.name)
        if index is None:
            return INVALID
        if scope.loops or not any(affine.terms for affine in index):
            return Load(owner.name, index, scope.type_of(owner.name).dtype)
    if owner is language.Tensor:
        return _tensor_type(scope, node, evaluate(scope, node.slice))
    index_value = evaluate(scope, node.slice)
    if INVALID in (owner, index_value):
        return INVALID
    if isinstance(owner, tuple) and isinstance(index_value, int):
        if -len(owner) <= index_value < len(owner):
            return owner[index_value]
        return scope.report(node, f"'{ast.unparse(node)}': the tuple has {len(owner)} items")
    return scope.report(node, f"'{ast.unparse(node)}': {describe(owner)} cannot be indexed")


def read_index(scope: Scope, node: ast.Subscript, tensor: str) -> tuple[Affine, ...] | None:
    """The index of an element, checked for rank, form and bounds; ``None`` if it is wrong."""
    items = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
    kind = scope.type_of(tensor)
    if len(items) != len(kind.shape):
        scope.report(
            node,
            f"'{tensor}' has rank {len(kind.shape)} ({kind}): expected {len(kind.shape)} "
            f"indices, found {len(items)}",
        )
        return None
    index = [_index(scope, item) for item in items]
    found = tuple(affine for affine in index if affine is not None)
    if len(found) < len(index):
        return None
    return found if check_bounds(scope, items, tensor, found) else None


def _index(scope: Scope, node: ast.expr) -> Affine | None:
    if isinstance(node, ast.Slice):
        scope.report(node, "a slice is no element: write a loop over it")
        return None
    value = evaluate(scope, node)
    if isinstance(value, bool) or not isinstance(value, int | Affine):
        if value is not INVALID:
            scope.report(
                node,
                f"non-affine index '{ast.unparse(node)}': expected loop variables times "
                "constants, plus a constant",
            )
        return None
    return Affine((), value) if isinstance(value, int) else value


def _binary(scope: Scope, node: ast.BinOp) -> Value:
    left, right = evaluate(scope, node.left), evaluate(scope, node.right)
    return combine(scope, node, node.op, left, right)


def _unary(scope: Scope, node: ast.UnaryOp) -> Value:
    value = evaluate(scope, node.operand)
    if value is INVALID or isinstance(node.op, ast.UAdd):
        return value
    folded: dict[type, Callable[..., Any]] = {
        ast.USub: operator.neg,
        ast.Not: operator.not_,
        ast.Invert: operator.invert,
    }
    if is_number(value):
        return fold(scope, node, folded[type(node.op)], value)
    if isinstance(node.op, ast.USub) and isinstance(value, Affine):
        return value.scaled(-1)
    if isinstance(node.op, ast.Invert):
        operand = as_expression(scope, node, value)
        name = "not" if operand is not None and operand.dtype == "bool" else "invert"
    else:
        name = "neg" if isinstance(node.op, ast.USub) else "not"
    return operate(scope, node, name, [value])


def _compare(scope: Scope, node: ast.Compare) -> Value:
    values = [evaluate(scope, item) for item in (node.left, *node.comparators)]
    if INVALID in values:
        return INVALID
    result: Value = True
    for op, left, right in zip(node.ops, values, values[1:], strict=False):
        if type(op) not in COMPARE:
            return scope.report(node, f"unsupported comparison '{ast.unparse(node)}'")
        name, function = COMPARE[type(op)]
        if is_number(left) and is_number(right):
            link: Value = function(left, right)
        else:
            link = operate(scope, node, name, [left, right])
        result = link if result is True else operate(scope, node, "and", [result, link])
    return result


def _boolean(scope: Scope, node: ast.BoolOp) -> Value:
    values = [evaluate(scope, item) for item in node.values]
    if INVALID in values:
        return INVALID
    name = "and" if isinstance(node.op, ast.And) else "or"
    for value, item in zip(values, node.values, strict=True):
        operand = as_expression(scope, item, value)
        if operand is not None and operand.dtype != "bool":
            return scope.report(item, f"{name}: expected bool operands, found {operand.dtype}")
    result = values[0]
    for value in values[1:]:
        result = operate(scope, node, name, [result, value])
    return result


def _conditional(scope: Scope, node: ast.IfExp) -> Value:
    test = evaluate(scope, node.test)
    if is_number(test):  # as in Python, the other is not looked at
        return evaluate(scope, node.body if test else node.orelse)
    return choose(scope, node, [test, evaluate(scope, node.body), evaluate(scope, node.orelse)])


def _call(scope: Scope, node: ast.Call) -> Value:
    function = evaluate(scope, node.func)
    values = [evaluate(scope, item) for item in node.args]
    if function is INVALID or INVALID in values:
        return INVALID
    if node.keywords:
        return scope.report(node, f"'{ast.unparse(node.func)}' takes no keyword arguments here")
    if function is language.Tensor:
        return _tensor_type(scope, node, tuple(values))
    if function in (len,) and len(values) == 1 and isinstance(values[0], tuple):
        return len(values[0])
    if function is language.select:
        if len(values) == 3:
            return choose(scope, node, values)
        return scope.report(node, f"select: expected 3 operands, found {len(values)}")
    if function is language.cast or (isinstance(function, type) and len(values) == 1):
        return _cast(scope, node, values if function is language.cast else [*values, function])
    if not isinstance(function, type) and function in language.FUNCTIONS:
        return _apply(scope, node, function, values)
    return scope.report(
        node,
        f"'{ast.unparse(node.func)}' cannot be called on elements; see mlcflow.language for "
        "what can",
    )


def _apply(scope: Scope, node: ast.Call, function: Callable[..., Any], values: list) -> Value:
    if values and all(is_number(value) for value in values):
        return fold(scope, node, function, *values)
    name = language.FUNCTIONS[function]
    if name in ("maximum", "minimum") and len(values) > 2:  # as Python's max takes any number
        result = values[0]
        for value in values[1:]:
            result = operate(scope, node, name, [result, value])
        return result
    return operate(scope, node, name, values)


def _cast(scope: Scope, node: ast.Call, values: list[Value]) -> Value:
    if len(values) != 2:
        return scope.report(node, f"cast: expected a value and a type, found {len(values)} values")
    try:
        dtype = language.dtype_name(values[1])
    except MlcflowError as error:
        return scope.report(node, str(error))
    operand = as_expression(scope, node, values[0])
    return INVALID if operand is None else convert(operand, dtype)


def _tensor_type(scope: Scope, node: ast.AST, values: Value) -> TensorType | Value:
    if values is INVALID:
        return INVALID
    if not isinstance(values, tuple) or len(values) != 2:
        return scope.report(node, "Tensor: expected a shape and an element type")
    if not isinstance(values[0], tuple | int | str | Symbol):
        return scope.report(node, f"expected a shape, found {describe(values[0])}")
    try:
        return language.tensor_type(*values)
    except MlcflowError as error:
        return scope.report(node, str(error))


_HANDLERS: dict[type, Callable[[Scope, Any], Value]] = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.Tuple: _tuple,
    ast.List: _tuple,
    ast.Attribute: _attribute,
    ast.Subscript: _subscript,
    ast.BinOp: _binary,
    ast.UnaryOp: _unary,
    ast.Compare: _compare,
    ast.BoolOp: _boolean,
    ast.IfExp: _conditional,
    ast.Call: _call,
}
