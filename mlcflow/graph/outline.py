"""Moving a group of operations into a function of its own."""

from __future__ import annotations

from mlcflow.graph.linalg_ops import (
    captured,
    is_elementwise,
    is_empty,
    is_fill,
    outputs,
    owner,
)
from mlcflow.mlir import func, ir, linalg, tensor, walk


def outline(group: list[ir.OpView], name: str, symbols: ir.SymbolTable) -> func.FuncOp:
    """Replace ``group`` by a call to a new private function that holds it.

    The last operation of the group gives the results. The arguments are the values that the
    group takes from outside, then a destination for each result. Constants, empty tensors and
    fills are copied into the function.
    """
    final = group[-1]
    needed = _closure(group)
    arguments = _arguments(needed)
    with ir.InsertionPoint(final), final.location:
        destinations = [_destination(value) for value in outputs(final)]
        arguments = [value for value in arguments if value not in destinations]
        types = [value.type for value in (*arguments, *destinations)]
        results = [result.type for result in final.results]
    function = _declare(name, types, results, symbols, group)
    with ir.InsertionPoint(function.entry_block):
        copies = _copy(needed, arguments, destinations, function)
        func.ReturnOp([copies[result] for result in final.results])
    with ir.InsertionPoint(final), final.location:
        call = func.CallOp(results, function.name.value, [*arguments, *destinations])
    for old, new in zip(final.results, call.results, strict=True):
        old.replace_all_uses_with(new)
    for op in reversed(group):
        op.operation.erase()
    return function


def _closure(group: list[ir.OpView]) -> list[ir.OpView]:
    """The group with the constants, empty tensors and fills it reads, in order of definition."""
    ordered: dict[ir.OpView, None] = {}

    def add(op: ir.OpView) -> None:
        for value in [*op.operation.operands, *captured(op)]:
            producer = owner(value)
            if producer is not None and producer not in ordered and _is_copied(producer):
                add(producer)
        ordered[op] = None

    for op in group:
        add(op)
    return list(ordered)


def _is_copied(op: ir.OpView) -> bool:
    """Whether each kernel gets its own copy of ``op``."""
    if op.operation.name == "arith.constant":
        return not isinstance(op.results[0].type, ir.ShapedType) or _is_splat(op)
    return is_empty(op) or is_fill(op)


def _is_splat(op: ir.OpView) -> bool:
    value = op.operation.attributes["value"]
    return isinstance(value, ir.DenseElementsAttr) and value.is_splat


def _arguments(ops: list[ir.OpView]) -> list[ir.Value]:
    """Values that ``ops`` use and do not define."""
    defined = {result for op in ops for result in op.results}
    used = (value for op in ops for value in [*op.operation.operands, *captured(op)])
    return list(dict.fromkeys(value for value in used if value not in defined))


def _destination(value: ir.Value) -> ir.Value:
    """What the caller passes as destination for the output operand ``value``.

    A fresh empty tensor where the group starts from one; else the tensor it updates.
    """
    producer = owner(value)
    if producer is not None and is_fill(producer):
        return _destination(outputs(producer)[0])
    if is_empty(producer):
        return tensor.empty(*_empty_arguments(producer))
    return value


def _empty_arguments(op: tensor.EmptyOp) -> tuple[list, ir.Type]:
    """The sizes and element type that make an empty tensor like ``op``."""
    kind = ir.RankedTensorType(op.result.type)
    dynamic = iter(op.operands)
    sizes = [next(dynamic) if kind.is_dynamic_dim(i) else kind.shape[i] for i in range(kind.rank)]
    return sizes, kind.element_type


def _declare(
    name: str,
    arguments: list[ir.Type],
    results: list[ir.Type],
    symbols: ir.SymbolTable,
    group: list[ir.OpView],
) -> func.FuncOp:
    """An empty private function, inserted into the module under a free name."""
    locations = [op.location for op in group]
    body = _module_body(group[0])
    with ir.Location.fused(locations), ir.InsertionPoint(body):
        function = func.FuncOp(name, (arguments, results), visibility="private")
        function.attributes["mlcflow.kernel"] = ir.UnitAttr.get()
        symbols.insert(function)
        function.add_entry_block()
    return function


def _module_body(op: ir.OpView) -> ir.Block:
    """The block of the module that ``op`` lies in."""
    parent = op.operation.parent
    while parent.parent is not None:
        parent = parent.parent
    return parent.regions[0].blocks[0]


def _copy(
    ops: list[ir.OpView],
    arguments: list[ir.Value],
    destinations: list[ir.Value],
    function: func.FuncOp,
) -> dict[ir.Value, ir.Value]:
    """Copy ``ops`` into ``function``; gives the copy of each value."""
    copies = dict(zip([*arguments, *destinations], function.arguments, strict=True))
    for op in ops:
        copy = op.operation.clone()
        for inner in [copy, *(nested.operation for nested in walk(copy))]:
            for number, operand in enumerate(inner.operands):
                if operand in copies:
                    inner.operands[number] = copies[operand]
        for old, new in zip(op.results, copy.results, strict=True):
            copies[old] = new
    return copies


def write_destinations(module: ir.Module) -> None:
    """Let the operations that give the results of a kernel write its destinations.

    What comes before them keeps memory of its own.
    """
    for function in kernels(module):
        count = len(function.type.results)
        places = list(function.arguments)[len(function.arguments) - count :]
        returned = function.entry_block.operations[len(function.entry_block.operations) - 1]
        for place, value in zip(places, returned.operands, strict=True):
            _start_from(place, value)


def use_destinations(module: ir.Module) -> None:
    """Let every kernel work in its destinations instead of in empty tensors.

    Runs after the fusion of elementwise operations, which starts from a new empty tensor.
    Bufferization makes a copy where working in place would be wrong.
    """
    write_destinations(module)
    for function in kernels(module):
        if _products(function) > 1:
            continue  # what lies between them is kept a tile at a time
        count = len(function.type.results)
        places = list(function.arguments)[len(function.arguments) - count :]
        returned = function.entry_block.operations[len(function.entry_block.operations) - 1]
        for op in walk(function):
            # A row between two steps is short, and has a place that stays in the cache.
            if is_empty(op) and not _is_between(op.result, returned):
                for place in places:
                    if op.result.type == place.type:
                        op.result.replace_all_uses_with(place)


def _products(function: func.FuncOp) -> int:
    named = [op for op in walk(function) if op.operation.name.startswith("linalg.")]
    return sum(linalg.isa_contraction_op(op.operation) for op in named)


def _is_between(space: ir.Value, returned: ir.OpView) -> bool:
    """Whether an elementwise operation works in ``space`` whose result is not returned."""
    return any(
        is_elementwise(use.owner) and not set(use.owner.results) & set(returned.operands)
        for use in space.uses
    )


def _start_from(place: ir.Value, value: ir.Value) -> None:
    """Make ``place`` what the operation behind ``value`` writes into."""
    producer = owner(value)
    if producer is None or not producer.operation.name.startswith("linalg."):
        return
    first = len(producer.operation.operands) - len(producer.operation.results)
    number = first + list(producer.results).index(value)
    start = owner(producer.operation.operands[number])
    if is_empty(start):
        producer.operation.operands[number] = place
    elif start is not None and is_fill(start) and is_empty(owner(outputs(start)[0])):
        start.operation.operands[1] = place


def graphs(module: ir.Module) -> list[func.FuncOp]:
    """The functions with a body that are no kernels: what kernels are cut out of."""
    return [
        op
        for op in module.body.operations
        if isinstance(op, func.FuncOp)
        and "mlcflow.kernel" not in op.attributes
        and not op.is_external
    ]


def kernels(module: ir.Module) -> list[func.FuncOp]:
    """The functions that hold one kernel each."""
    return [
        op
        for op in module.body.operations
        if isinstance(op, func.FuncOp) and "mlcflow.kernel" in op.attributes
    ]
