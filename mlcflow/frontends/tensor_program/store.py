"""Writing an element: which loops choose it, which accumulate into it, what it may read."""

from __future__ import annotations

import ast

from mlcflow.frontends.tensor_program.expressions import evaluate, read_index
from mlcflow.frontends.tensor_program.intrinsics import COMBINERS
from mlcflow.frontends.tensor_program.scope import INVALID, Scope, TensorName, Value
from mlcflow.frontends.tensor_program.tree import (
    Affine,
    Apply,
    Constant,
    Expression,
    Load,
    Size,
    Statement,
    loads,
    variables,
)
from mlcflow.frontends.tensor_program.typed import as_expression, convert, fits, misfit


def store(scope: Scope, node: ast.stmt, target: ast.Subscript, value: Value) -> None:
    """Record ``target = value`` in the loops of ``scope``; reports what is wrong with it."""
    owner = evaluate(scope, target.value)
    if not isinstance(owner, TensorName):
        if owner is not INVALID:
            scope.report(target, f"'{ast.unparse(target.value)}' is no buffer")
        return
    name = owner.name
    if name in scope.arguments:
        scope.report(
            target,
            f"'{name}' is an argument, which is read only: expected a buffer made with empty",
        )
        return
    index = read_index(scope, target, name)
    if index is None or value is INVALID or not _is_one_element(scope, target, index):
        return
    expression = as_expression(scope, node, value)
    if expression is None:
        return
    dtype = scope.buffers[name].dtype
    if not fits(expression, dtype):
        scope.report(node, f"'{name}' holds {dtype}: {misfit(expression, dtype)}")
        return
    statement = _statement(scope, node, name, index, convert(expression, dtype))
    if _is_sound(scope, node, statement):
        scope.statements.append(statement)
        scope.forget(name)


def _is_one_element(scope: Scope, target: ast.Subscript, index: tuple[Affine, ...]) -> bool:
    """Whether different iterations write different elements: a loop variable a dimension."""
    names = [name for affine in index for name, _ in affine.terms]
    extents = {loop.name: loop.extent for loop in scope.loops}
    if all(_is_distinct(affine, extents) for affine in index) and len(set(names)) == len(names):
        return True
    scope.report(
        target,
        f"'{ast.unparse(target)}' is written: expected loop variables in one dimension each, such "
        "as 'i', 'i * 2 + 1', or 'i * 4 + j' with j from 0 to 3",
    )
    return False


def _is_distinct(index: Affine, extents: dict[str, Size]) -> bool:
    """Whether each iteration gives another index: one variable, or several like the digits of a
    number, each making steps as long as what the later ones run through."""
    if len(index.terms) <= 1:
        return all(coefficient > 0 for _, coefficient in index.terms)
    step = 1
    for name, coefficient in reversed(index.descending):
        extent = extents[name]
        if coefficient != step or not isinstance(extent, int):
            return False
        step *= extent
    return index.constant == 0


def _statement(
    scope: Scope, node: ast.stmt, name: str, index: tuple[Affine, ...], value: Expression
) -> Statement:
    """The statement, with an accumulation recognised as such."""
    combine = ""
    loops = tuple(scope.loops)
    spatial = {n for affine in index for n, _ in affine.terms}
    if scope.in_init:  # before the first iteration of the others
        loops = tuple(loop for loop in loops if loop.name in spatial)
    accumulated = _accumulation(name, index, value)
    if accumulated is not None:
        combine, value = accumulated
    return Statement(loops, name, index, combine, value, node.lineno, node.col_offset)


def _accumulation(
    name: str, index: tuple[Affine, ...], value: Expression
) -> tuple[str, Expression] | None:
    """``(combiner, x)`` when ``value`` is ``element + x``, ``max(x, element)`` and so on."""
    if not isinstance(value, Apply) or len(value.operands) != 2:
        return None

    def is_element(node: Expression) -> bool:
        return isinstance(node, Load) and node.tensor == name and node.index == index

    def is_free(node: Expression) -> bool:
        return all(load.tensor != name for load in loads(node))

    left, right = value.operands
    if value.operation == "sub" and is_element(left) and is_free(right):
        # Not a negation: upstream folds its sum into a subtraction, which is no reduction.
        zero = Constant(0, value.dtype)
        return "add", Apply("sub", (zero, right), value.dtype)
    if value.operation in COMBINERS:
        if is_element(left) and is_free(right):
            return value.operation, right
        if is_element(right) and is_free(left):
            return value.operation, left
    return None


def _is_sound(scope: Scope, node: ast.stmt, statement: Statement) -> bool:
    """Report loops that neither choose the element nor accumulate, and reads of other elements
    of what is written."""
    before = len(scope.problems)
    spatial, reduced = set(statement.spatial), statement.reduced
    for loop in statement.loops:
        if loop.kind == "reduce" and loop.name in spatial:
            scope.report(node, f"'{loop.name}' is a reduce axis, yet it chooses what is written")
        if loop.kind == "spatial" and loop.name not in spatial:
            scope.report(
                node, f"'{loop.name}' is a spatial axis, yet it does not choose what is written"
            )
    if reduced and not statement.combine:
        names = ", ".join(f"'{name}'" for name in reduced)
        scope.report(
            node,
            f"'{statement.target}' is overwritten in every iteration of {names}: expected "
            "an accumulation (+=, *=, or x = max(x, ...)), or the loop in its index",
        )
    if any(
        load.tensor == statement.target and load.index != statement.index
        for load in loads(statement.value)
    ):
        scope.report(
            node,
            f"'{statement.target}' is read at another element than the one written: iterations "
            "must not depend on each other; expected another buffer to write to",
        )
    outside = variables(statement.value) - {loop.name for loop in statement.loops}
    if scope.in_init and (outside or statement.combine):
        scope.report(node, "init: expected a value that depends on no reduction loop")
    return len(scope.problems) == before
