"""A part of a model as a model of its own, and smaller ones like it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from mlcflow.graph.linalg_ops import captured, is_empty, is_fill
from mlcflow.mlir import func, ir, walk
from mlcflow.passes import Pass

_SIZES = ("static_sizes", "static_output_shape")


def main_of(module: ir.Module) -> func.FuncOp:
    """The function ``@main`` of a module that has one."""
    return next(
        op
        for op in module.body.operations
        if isinstance(op, func.FuncOp) and op.name.value == "main"
    )


def operations(module: ir.Module) -> list[ir.OpView]:
    """What ``@main`` consists of, but for constants and empty or filled tensors."""
    *ops, _ = main_of(module).entry_block.operations
    return [op for op in ops if not _is_free(op)]


def _is_free(op: ir.OpView) -> bool:
    """Whether an operation is copied along with what reads it."""
    if op.operation.name == "arith.constant":
        value = op.operation.attributes["value"]
        return not isinstance(value, ir.DenseElementsAttr) or value.is_splat
    return is_empty(op) or is_fill(op)


def extract(module: ir.Module, keep: Collection[int]) -> ir.Module:
    """A module whose ``@main`` holds the operations with these numbers.

    What they read of others becomes an argument, what nobody of them reads a result.
    """
    main = main_of(module)
    kept = {op for number, op in enumerate(operations(module)) if number in keep}
    needed = _with_free(main, kept)
    inside = {result for op in needed for result in op.results}
    used = [v for op in needed for v in _reads(op)]
    arguments = list(dict.fromkeys(v for v in used if v not in inside))
    read = {v for op in kept for v in _reads(op)}
    results = [r for op in needed if op in kept for r in op.results if r not in read]
    with module.context, ir.Location.unknown():
        made = ir.Module.create()
        for op in module.body.operations:
            if op != main:
                made.body.append(op.operation.clone())
        kinds = [value.type for value in arguments], [value.type for value in results]
        with ir.InsertionPoint(made.body):
            function = func.FuncOp("main", kinds)
        attributes = _attributes(main)
        function.attributes["arg_attrs"] = ir.ArrayAttr.get(
            [
                attributes.get(value) or _named("input", f"value{number}")
                for number, value in enumerate(arguments)
            ]
        )
        copies = dict(zip(arguments, function.add_entry_block().arguments, strict=True))
        with ir.InsertionPoint(function.entry_block):
            for op in needed:
                _clone(op, copies)
            func.ReturnOp([copies[value] for value in results])
        Pass("symbol-dce")(made)
        return made


def _with_free(main: func.FuncOp, kept: set[ir.OpView]) -> list[ir.OpView]:
    """The kept operations and the free ones that they need, in order."""
    *ops, _ = main.entry_block.operations
    needed = set(kept)
    for op in reversed(ops):
        if op in needed:
            for value in _reads(op):
                producer = value.owner
                if not isinstance(producer, ir.Block) and _is_free(producer.opview):
                    needed.add(producer.opview)
    return [op for op in ops if op in needed]


def _reads(op: ir.OpView) -> list[ir.Value]:
    return [*op.operation.operands, *captured(op)]


def _attributes(main: func.FuncOp) -> dict[ir.Value, ir.DictAttr]:
    if "arg_attrs" not in main.attributes:
        return {}
    entries = map(ir.DictAttr, ir.ArrayAttr(main.attributes["arg_attrs"]))
    return dict(zip(main.arguments, entries, strict=True))


def _named(role: str, name: str) -> ir.DictAttr:
    return ir.DictAttr.get({f"mlcflow.{role}": ir.StringAttr.get(name)})


def _clone(op: ir.OpView, copies: dict[ir.Value, ir.Value]) -> None:
    copy = op.operation.clone()
    for inner in [copy, *(nested.operation for nested in walk(copy))]:
        for number, operand in enumerate(inner.operands):
            if operand in copies:
                inner.operands[number] = copies[operand]
    copies.update(zip(op.results, copy.results, strict=True))


def drop_result(module: ir.Module, number: int) -> None:
    """Let ``@main`` not return the result of that number."""
    main = main_of(module)
    *_, returned = main.entry_block.operations
    values = [value for n, value in enumerate(returned.operands) if n != number]
    with module.context, ir.Location.unknown():
        with ir.InsertionPoint(returned):
            func.ReturnOp(values)
        returned.operation.erase()
        kind = ir.FunctionType.get(list(main.type.inputs), [value.type for value in values])
        main.attributes["function_type"] = ir.TypeAttr.get(kind)
        if "res_attrs" in main.attributes:
            del main.attributes["res_attrs"]


def scalar_steps(module: ir.Module) -> Iterator[tuple[int, int]]:
    """Each scalar operation inside an operation that an operand could stand for.

    Pairs of the number of the operation in the module and of the operand.
    """
    for number, op in enumerate(walk(module.operation)):
        inner = op.operation.parent
        if inner is not None and inner.name.startswith("linalg.") and len(op.results) == 1:
            for index, operand in enumerate(op.operands):
                if operand.type == op.results[0].type:
                    yield number, index


def without_scalar_step(module: ir.Module, number: int, operand: int) -> None:
    """Put an operand in the place of a scalar operation, as :func:`scalar_steps` counts them."""
    op = walk(module.operation)[number]
    op.results[0].replace_all_uses_with(op.operands[operand])
    op.operation.erase()


def sizes(module: ir.Module) -> list[int]:
    """The sizes of dimensions in ``@main`` that could be smaller, largest first."""
    found: set[int] = set()
    for op in walk(main_of(module)):
        for value in [*op.operands, *op.results]:
            if isinstance(value.type, ir.RankedTensorType):
                found.update(size for size in value.type.shape if size > 1)
    return sorted(found, reverse=True)


def resize(module: ir.Module, change: Mapping[int, int]) -> None:
    """Give every dimension of these sizes another one; the module may not verify afterwards."""
    with module.context, ir.Location.unknown():
        for op in walk(module.operation):
            blocks = [block for region in op.operation.regions for block in region.blocks]
            for value in [*op.results, *(a for block in blocks for a in block.arguments)]:
                value.set_type(_resized(value.type, change))
            for name in op.operation.attributes:
                attribute = _resized_attribute(name, op.operation.attributes[name], change)
                op.operation.attributes[name] = attribute


def _resized(kind: ir.Type, change: Mapping[int, int]) -> ir.Type:
    if isinstance(kind, ir.RankedTensorType):
        shape = [change.get(size, size) for size in kind.shape]
        return ir.RankedTensorType.get(shape, kind.element_type, kind.encoding)
    if isinstance(kind, ir.FunctionType):
        inputs = [_resized(each, change) for each in kind.inputs]
        return ir.FunctionType.get(inputs, [_resized(each, change) for each in kind.results])
    return kind


def _resized_attribute(
    name: str, attribute: ir.Attribute, change: Mapping[int, int]
) -> ir.Attribute:
    if isinstance(attribute, ir.TypeAttr):
        return ir.TypeAttr.get(_resized(attribute.value, change))
    if name in _SIZES and isinstance(attribute, ir.DenseI64ArrayAttr):
        return ir.DenseI64ArrayAttr.get([change.get(size, size) for size in attribute])
    if isinstance(attribute, ir.DenseElementsAttr) and attribute.is_splat:
        kind = _resized(attribute.type, change)
        return ir.DenseElementsAttr.get_splat(kind, attribute.get_splat_value())
    return attribute
