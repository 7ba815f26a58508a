"""A ``linalg.generic`` as a loop nest for each of its results."""

from __future__ import annotations

import ast

from mlcflow.frontends.tensor_program.print_scalars import Body, constant_of
from mlcflow.frontends.tensor_program.print_values import (
    Empty,
    Index,
    PySize,
    Splat,
    View,
    affine,
)
from mlcflow.frontends.tensor_program.printer import Printer, size_expression
from mlcflow.mlir import ir, linalg

_AUGMENTED = {
    "arith.addf": ast.Add(), "arith.addi": ast.Add(),
    "arith.mulf": ast.Mult(), "arith.muli": ast.Mult(),
    "arith.subf": ast.Sub(), "arith.subi": ast.Sub(),
}  # fmt: skip


def print_generic(printer: Printer, op: ir.OpView) -> None:
    """Add the loops of ``op``; a destination that the body reads keeps what it held."""
    operation = op.operation
    maps = [ir.AffineMapAttr(m).value for m in linalg.get_indexing_maps(operation)]
    first = len(operation.operands) - len(operation.results)
    body = operation.regions[0].blocks[0]
    loops = printer.loops(maps[0].n_dims)
    extents = _extents(printer, op, maps)
    if _is_fill(printer, op):
        return
    if "?" in extents:
        printer.problem(op, "a loop whose extent no operand gives")
        return
    kinds = ir.ArrayAttr(operation.attributes["iterator_types"])
    reduced = ["reduction" in str(kind) for kind in kinds]
    yielded = body.operations[len(body.operations) - 1].operands
    used = [result for result in operation.results if list(result.uses)]
    for number, result in enumerate(operation.results):
        if result not in used:
            continue
        argument = body.arguments[first + number]
        old = operation.operands[first + number]
        index = _index(printer, op, maps[first + number], loops)
        if list(argument.uses):
            buffer = printer.destination(op, old, result)
        else:
            buffer = printer.buffer(result, printer.values[old].shape)
        printer.values[result] = buffer
        scalars = Body(_elements(printer, op, maps, loops), loops, printer.fresh_local)
        scalars.values[argument] = buffer.element(index)
        for value, size in printer.sizes.items():
            scalars.values[value] = size_expression(size)
        statement = _statement(scalars, body, yielded[number], argument, buffer.element(index))
        for problem in scalars.problems:
            printer.problem(op, problem)
        printer.nest(loops, extents, reduced, [*scalars.statements, statement])


def _is_fill(printer: Printer, op: ir.OpView) -> bool:
    """Note an operation that only writes one number; it becomes an initial value, or a literal
    where it is read."""
    body = op.operation.regions[0].blocks[0]
    value = body.operations[len(body.operations) - 1].operands[0]
    if len(op.operation.results) != 1 or list(body.arguments)[-1] == value:
        return False
    if isinstance(value.owner, ir.Block):
        given = dict(zip(body.arguments, op.operation.operands, strict=True)).get(value, value)
        value = value if isinstance(given.type, ir.RankedTensorType) else given
    number = constant_of(value)
    if number is not None:
        shape = printer.values[list(op.operation.operands)[-1]].shape
        printer.values[op.operation.results[0]] = Splat(shape, number)
    return number is not None


def _extents(printer: Printer, op: ir.OpView, maps: list[ir.AffineMap]) -> list[PySize]:
    """The extent of each loop: the size of a dimension that it runs over alone."""
    extents: list[PySize] = ["?"] * maps[0].n_dims
    for operand, affine_map in zip(op.operation.operands, maps, strict=True):
        for dimension, expression in enumerate(affine_map.results):
            if isinstance(expression, ir.AffineDimExpr) and operand in printer.values:
                size = printer.values[operand].shape[dimension]
                if extents[expression.position] == "?" or isinstance(size, int):
                    extents[expression.position] = size
    return extents


def _index(printer: Printer, op: ir.OpView, affine_map: ir.AffineMap, loops: list[str]) -> Index:
    index: Index = []
    for expression in affine_map.results:
        part = affine(expression, loops)
        if part is None:
            printer.problem(op, f"the index '{expression}' of a {op.operation.name}")
            part = ast.Constant(0)
        index.append(part)
    return index


def _elements(
    printer: Printer, op: ir.OpView, maps: list[ir.AffineMap], loops: list[str]
) -> dict[ir.Value, ast.expr]:
    """What each argument of the body reads, if it is used."""
    elements: dict[ir.Value, ast.expr] = {}
    arguments = op.operation.regions[0].blocks[0].arguments
    inputs = len(op.operation.operands) - len(op.operation.results)
    for number, (operand, argument) in enumerate(
        zip(op.operation.operands, arguments, strict=True)
    ):
        if not list(argument.uses) or number >= inputs:
            continue  # what the destinations hold is looked at for each result by itself
        state = printer.values.get(operand)
        scalar = constant_of(operand) if state is None else None
        if isinstance(state, View):
            elements[argument] = state.element(_index(printer, op, maps[number], loops))
        elif isinstance(state, Splat):
            elements[argument] = state.value
        elif scalar is not None:
            elements[argument] = scalar
        else:
            what = "an empty tensor" if isinstance(state, Empty) else "a scalar"
            printer.problem(op, f"a {op.operation.name} that reads {what} of type {operand.type}")
            elements[argument] = ast.Constant(0)
    return elements


def _statement(
    scalars: Body,
    body: ir.Block,
    value: ir.Value,
    accumulator: ir.Value,
    target: ast.Subscript,
) -> ast.stmt:
    """``target = value``, or ``target += x`` where the value is that."""
    for op in _needed(body, value):
        accumulates = op.operation.name in _AUGMENTED and op.operation.results[0] == value
        if accumulates and accumulator in list(op.operation.operands):
            left, right = op.operation.operands
            swapped = right == accumulator
            if not (swapped and op.operation.name.startswith("arith.sub")):
                other = scalars.value(left if swapped else right)
                return ast.AugAssign(target, _AUGMENTED[op.operation.name], other)
        scalars.add(op)
    return ast.Assign([target], scalars.value(value), lineno=0)


def _needed(body: ir.Block, value: ir.Value) -> list[ir.OpView]:
    """The operations of the body that ``value`` depends on, in order."""
    needed = {value}
    found = []
    for op in reversed(list(body.operations)):
        if any(result in needed for result in op.operation.results):
            needed.update(op.operation.operands)
            found.append(op)
    return found[::-1]
