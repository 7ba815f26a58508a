"""Panels of parameters are copied once, when the executable loads.

A schedule may copy what a kernel reads into panels ahead of its loops (``cache_read`` with
``panels``). Where a kernel is called with a parameter, or with what ``@prepare`` makes of one,
the copy is the same at every call.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from mlcflow.graph.interface import add_argument, add_result, entry_points, names_of
from mlcflow.graph.kernel import Kernel
from mlcflow.graph.linalg_ops import captured, elements, is_empty, owner
from mlcflow.graph.outline import kernels
from mlcflow.graph.prepare import drop_unused, fixed_parameters, value_in_prepare
from mlcflow.mlir import func, ir, scf, tensor, walk

RESHAPES = (tensor.CollapseShapeOp, tensor.ExpandShapeOp)
GROWTH = 1.5
"""Panels at most so many times as large as what they are made of are kept in its place."""


@dataclass(frozen=True)
class Panels:
    """A loop at the top of ``kernel`` that fills an empty tensor from one argument alone."""

    kernel: func.FuncOp
    loop: scf.ForOp
    argument: int


def prepare_panels(module: ir.Module) -> None:
    """Move the copying of parameters into panels from the kernels to ``@prepare``.

    Runs after the schedules and after ``prepare``. A kernel that is also called with something
    else than parameters keeps its copy.
    """
    main = next((f for f in entry_points(module) if f.name.value == "main"), None)
    if main is None:
        return
    calls = _calls(main)
    for kernel in kernels(module):
        sites = calls.get(kernel.name.value, [])
        for panels in _find(kernel):
            known = _names(main)
            if sites and all(site.operands[panels.argument] in known for site in sites):
                _move(module, main, panels, sites)
    for op in reversed(list(main.entry_block.operations)):
        if isinstance(op, RESHAPES) and not list(op.result.uses):
            op.operation.erase()
    drop_unused(module)


def is_prepared(kernel: Kernel, operand: int) -> bool:
    """Whether operand number ``operand`` of the root is the same at every call of the kernel.

    So is an argument that ``@main`` gives a parameter, or something made of parameters alone.
    """
    value = kernel.root.operands[operand]
    arguments = list(kernel.function.arguments)
    module = kernel.function.operation.parent.opview
    main = next((f for f in entry_points(module) if f.name.value == "main"), None)
    if value not in arguments or main is None:
        return False
    sites = _calls(main).get(kernel.name, [])
    known, number = _names(main), arguments.index(value)
    return bool(sites) and all(site.operands[number] in known for site in sites)


def _names(main: func.FuncOp) -> dict[ir.Value, str]:
    """What is the same at every call of ``main``, with names: arguments, in any shape."""
    prepared = zip(main.arguments, names_of(main, "prepared"), strict=True)
    known = fixed_parameters(main) | {value: name for value, name in prepared if name}
    for op in main.entry_block.operations:
        if isinstance(op, RESHAPES) and op.src in known:
            known[op.result] = known[op.src]
    return known


def _calls(main: func.FuncOp) -> dict[str, list[func.CallOp]]:
    """The calls in ``main`` of each function."""
    found: dict[str, list[func.CallOp]] = {}
    for op in walk(main):
        if isinstance(op, func.CallOp):
            found.setdefault(op.callee.value, []).append(op)
    return found


def _find(kernel: func.FuncOp) -> list[Panels]:
    places = list(kernel.arguments)[len(kernel.arguments) - len(kernel.type.results) :]
    found = []
    for op in list(kernel.entry_block.operations):
        if isinstance(op, scf.ForOp) and len(op.results) == 1 and is_empty(owner(op.initArgs[0])):
            needed = _slice(op)
            outside = {value for other in needed for value in _reads(other)} & set(kernel.arguments)
            readers = [argument for argument in outside if argument not in places]
            if len(outside) == len(readers) == 1 and _alone(readers[0], op):
                small = elements(op.results[0].type) <= GROWTH * elements(readers[0].type)
                if small:
                    found.append(Panels(kernel, op, list(kernel.arguments).index(readers[0])))
    return found


def _reads(op: ir.OpView) -> list[ir.Value]:
    return [*op.operation.operands, *captured(op)]


def _slice(loop: scf.ForOp) -> list[ir.OpView]:
    """What ``loop`` needs of the operations before it, and itself, in order."""
    ordered: dict[ir.OpView, None] = {}

    def add(op: ir.OpView) -> None:
        for value in _reads(op):
            producer = owner(value)
            if producer is not None and producer.opview not in ordered:
                add(producer.opview)
        ordered[op] = None

    add(loop)
    return list(ordered)


def _alone(argument: ir.Value, loop: scf.ForOp) -> bool:
    """Whether only ``loop`` reads the argument."""
    inside = {other.operation for other in walk(loop)}
    return all(use.owner.operation in inside for use in argument.uses)


def _move(module: ir.Module, main: func.FuncOp, panels: Panels, sites: list[func.CallOp]) -> None:
    kernel, number = panels.kernel, panels.argument
    maker = _outline(module, panels)
    made: dict[ir.Value, ir.Value] = {}
    for site in sites:
        source = site.operands[number]
        if source not in made:
            made[source] = _prepared(module, main, source, maker)
        site.operation.operands[number] = made[source]
    argument = kernel.arguments[number]
    panels.loop.results[0].replace_all_uses_with(argument)
    kind = panels.loop.results[0].type
    panels.loop.operation.erase()
    argument.set_type(kind)
    inputs = [value.type for value in kernel.arguments]
    signature = ir.FunctionType.get(inputs, kernel.type.results)
    kernel.attributes["function_type"] = ir.TypeAttr.get(signature)


def _outline(module: ir.Module, panels: Panels) -> func.FuncOp:
    """A kernel that fills its last argument with the panels of its first."""
    kernel, loop = panels.kernel, panels.loop
    source = kernel.arguments[panels.argument]
    kind = loop.results[0].type
    with ir.InsertionPoint(kernel), loop.location:
        function = func.FuncOp(
            f"{kernel.name.value}_panels", ([source.type, kind], [kind]), visibility="private"
        )
        for key in ("mlcflow.kernel", "mlcflow.rule"):
            function.attributes[key] = kernel.attributes[key]
        ir.SymbolTable(module.operation).insert(function)
        function.add_entry_block()
    copies = {source: function.arguments[0], loop.initArgs[0]: function.arguments[1]}
    with ir.InsertionPoint(function.entry_block), loop.location:
        for op in _slice(loop):
            if is_empty(op):
                continue
            copy = op.operation.clone()
            for inner in [copy, *(nested.operation for nested in walk(copy))]:
                for index, operand in enumerate(inner.operands):
                    if operand in copies:
                        inner.operands[index] = copies[operand]
            copies.update(zip(op.results, copy.results, strict=True))
        func.ReturnOp([copies[loop.results[0]]])
    return function


def _prepared(
    module: ir.Module, main: func.FuncOp, source: ir.Value, maker: func.FuncOp
) -> ir.Value:
    """The argument of ``main`` for the panels that ``maker`` makes of its argument ``source``."""
    name, reshapes = _names(main)[source], []
    while isinstance(reshape := owner(source), RESHAPES):
        reshapes.append(reshape)
        source = reshape.src
    value = value_in_prepare(module, source, name)
    prepare = next(f for f in entry_points(module) if f.name.value == "prepare")
    kind = ir.RankedTensorType(maker.type.results[0])
    last = prepare.entry_block.operations[len(prepare.entry_block.operations) - 1]
    with ir.InsertionPoint(last), maker.location:
        for reshape in reversed(reshapes):
            copy = reshape.operation.clone()
            copy.operands[0], value = value, copy.results[0]
        place = tensor.empty(list(kind.shape), kind.element_type)
        call = func.CallOp([kind], maker.name.value, [value, place])
    taken = names_of(prepare, "prepared", results=True)
    name = next(each for n in itertools.count() if (each := f"{name}/panels{n or ''}") not in taken)
    add_result(prepare, call.results[0], "prepared", name)
    return add_argument(main, kind, "prepared", name)
