"""What depends on parameters alone is computed once, when the executable loads."""

from __future__ import annotations

from mlcflow.graph.interface import (
    ENTRY_POINTS,
    add_argument,
    entry_points,
    names_of,
    results_of,
    set_arguments,
    set_results,
)
from mlcflow.graph.linalg_ops import (
    captured,
    elements,
    has_assertion,
    is_empty,
    is_fill,
    is_linalg,
    loop_kinds,
    owner,
)
from mlcflow.mlir import func, ir, walk

_RESHAPES = ("tensor.expand_shape", "tensor.collapse_shape", "tensor.extract_slice", "tensor.pad")


def prepare(module: ir.Module) -> None:
    """Move what depends on parameters alone from ``@main`` to a new function ``@prepare``.

    Its results become arguments of ``@main``, marked ``mlcflow.prepared``. An operation moves
    only if its result is no larger than its largest operand, or a sum: a broadcast bias is
    better made where it is used. Parameters that the model overwrites count as inputs.
    """
    main = next((op for op in module.body.operations if _is_main(op)), None)
    if main is None or any(_is_prepare(op) for op in module.body.operations):
        return
    fixed = fixed_parameters(main)
    moved = _movable(main, set(fixed))
    border = _border(moved)
    if border:
        _make_prepare(module, main, fixed, moved, border)
        drop_unused(module)


def _is_main(op: ir.OpView) -> bool:
    return isinstance(op, func.FuncOp) and op.name.value == "main"


def _is_prepare(op: ir.OpView) -> bool:
    return isinstance(op, func.FuncOp) and op.name.value == "prepare"


def fixed_parameters(main: func.FuncOp) -> dict[ir.Value, str]:
    """The arguments that are parameters which ``main`` does not overwrite, with their names."""
    overwritten = set(names_of(main, "mutates", results=True))
    named = zip(main.arguments, names_of(main, "parameter"), strict=True)
    return {value: name for value, name in named if name and name not in overwritten}


def _movable(main: func.FuncOp, fixed: set[ir.Value]) -> list[ir.OpView]:
    """Operations of ``main`` that depend on ``fixed`` alone, in order."""
    known = set(fixed)
    moved = []
    for op in main.entry_block.operations:
        free = _is_free(op)
        operands = [*op.operation.operands, *captured(op)]
        if not (free or is_linalg(op) or op.operation.name in _RESHAPES):
            continue
        if all(value in known for value in operands) and (free or _is_worth_moving(op)):
            known.update(op.results)
            moved.append(op)
    return moved


def _is_free(op: ir.OpView) -> bool:
    """Constants and empty tensors: they move along, and also stay."""
    return op.operation.name == "arith.constant" or is_empty(op) or is_fill(op)


def _is_worth_moving(op: ir.OpView) -> bool:
    if has_assertion(op):
        return False
    if is_linalg(op) and "reduction" in loop_kinds(op):
        return True
    values = [*op.operation.operands, *captured(op)]  # captured: gathers from it
    sources = [value.type for value in values if not _is_free_value(value)]
    largest = max((elements(t) for t in sources if isinstance(t, ir.ShapedType)), default=0)
    return all(elements(result.type) <= largest for result in op.results)


def _is_free_value(value: ir.Value) -> bool:
    producer = owner(value)
    return producer is not None and _is_free(producer)


def _border(moved: list[ir.OpView]) -> list[ir.Value]:
    """Computed values that operations which stay behind use."""
    inside = set(moved)
    return [
        result
        for op in moved
        if not _is_free(op) and _computes(op)
        for result in op.results
        if any(_top(use.owner, op) not in inside for use in result.uses)
    ]


def _computes(op: ir.OpView) -> bool:
    """Whether anything but a change of shape lies between the parameters and ``op``."""
    if is_linalg(op):
        return True
    producers = [owner(value) for value in op.operation.operands]
    return any(p is not None and not _is_free(p) and _computes(p) for p in producers)


def _top(op: ir.OpView, sibling: ir.OpView) -> ir.OpView:
    """The operation of the block of ``sibling`` that holds ``op``."""
    while op.operation.block != sibling.operation.block:
        op = op.operation.parent
    return op


def _make_prepare(
    module: ir.Module,
    main: func.FuncOp,
    fixed: dict[ir.Value, str],
    moved: list[ir.OpView],
    border: list[ir.Value],
) -> None:
    needed = _slice(moved, border)
    sources = [v for v in fixed if any(v in [*o.operands, *captured(o)] for o in needed)]
    types = ([v.type for v in sources], [v.type for v in border])
    names = _names(border, fixed)
    with ir.InsertionPoint(module.body), main.location:
        function = func.FuncOp("prepare", types)
        function.add_entry_block()
    function.attributes["arg_attrs"] = ir.ArrayAttr.get(
        [ir.DictAttr.get({"mlcflow.parameter": ir.StringAttr.get(fixed[v])}) for v in sources]
    )
    function.attributes["res_attrs"] = ir.ArrayAttr.get(
        [ir.DictAttr.get({"mlcflow.prepared": ir.StringAttr.get(name)}) for name in names]
    )
    copies = dict(zip(sources, function.arguments, strict=True))
    with ir.InsertionPoint(function.entry_block), main.location:
        for op in needed:
            copy = op.operation.clone()
            for inner in [copy, *(nested.operation for nested in walk(copy))]:
                for number, operand in enumerate(inner.operands):
                    if operand in copies:
                        inner.operands[number] = copies[operand]
            copies.update(zip(op.results, copy.results, strict=True))
        func.ReturnOp([copies[value] for value in border])
    for value, name in zip(border, names, strict=True):
        value.replace_all_uses_with(add_argument(main, value.type, "prepared", name))
    for op in reversed(moved):
        if not any(list(result.uses) for result in op.results):
            op.operation.erase()


def _slice(moved: list[ir.OpView], border: list[ir.Value]) -> list[ir.OpView]:
    """The operations of ``moved`` that ``border`` needs, in order."""
    needed = {value.owner for value in border}
    for op in reversed(moved):
        if op in needed:
            for value in [*op.operation.operands, *captured(op)]:
                if owner(value) is not None:
                    needed.add(owner(value))
    return [op for op in moved if op in needed]


def _names(border: list[ir.Value], fixed: dict[ir.Value, str]) -> list[str]:
    """A name for each prepared value, after the first parameter that it depends on."""
    names: list[str] = []
    for value in border:
        base = _first_parameter(value, fixed)
        again = sum(name.split("#")[0] == base for name in names)
        names.append(f"{base}#{again}" if again else f"{base}#0")
    return names


def _first_parameter(value: ir.Value, fixed: dict[ir.Value, str]) -> str:
    if value in fixed:
        return fixed[value]
    producer = owner(value)
    for operand in producer.operation.operands if producer is not None else []:
        name = _first_parameter(operand, fixed)
        if name:
            return name
    return ""


def drop_unused(module: ir.Module) -> None:
    """Remove arguments of ``@main`` that it does not read: parameters, and prepared values.

    What ``@prepare`` then makes for nobody is removed as well.
    """
    main, prepare = (_function(module, name) for name in ENTRY_POINTS)
    if main is None or prepare is None:
        return
    attributes = list(ir.ArrayAttr(main.attributes["arg_attrs"]))
    names = zip(names_of(main, "parameter"), names_of(main, "prepared"), strict=True)
    for number, (parameter, prepared) in reversed(list(enumerate(names))):
        is_used = bool(list(main.entry_block.arguments[number].uses))
        if (parameter or prepared) and not is_used:
            main.entry_block.erase_argument(number)
            del attributes[number]
    set_arguments(main, attributes)
    wanted = set(names_of(main, "prepared"))
    returned = list(
        zip(names_of(prepare, "prepared", results=True), results_of(prepare), strict=True)
    )
    kept = [number for number, (name, _) in enumerate(returned) if name in wanted]
    entries = list(ir.ArrayAttr(prepare.attributes["res_attrs"]))
    set_results(prepare, [returned[n][1] for n in kept], [entries[n] for n in kept])


def _function(module: ir.Module, name: str) -> func.FuncOp | None:
    found = (op for op in entry_points(module) if op.name.value == name)
    return next(found, None)


def value_in_prepare(module: ir.Module, source: ir.Value, name: str) -> ir.Value:
    """What argument ``source`` of ``@main``, called ``name``, is inside ``@prepare``.

    A parameter becomes an argument of ``@prepare``, which is made if there is none.
    """
    prepare = _function(module, "prepare")
    if prepare is None:
        with ir.InsertionPoint(module.body), ir.Location.unknown():
            prepare = func.FuncOp("prepare", ([], []))
        with ir.InsertionPoint(prepare.add_entry_block()):
            func.ReturnOp([])
        prepare.attributes["arg_attrs"] = prepare.attributes["res_attrs"] = ir.ArrayAttr.get([])
    for known, value in zip(
        [*names_of(prepare, "prepared", results=True), *names_of(prepare, "parameter")],
        [*results_of(prepare), *prepare.arguments],
        strict=True,
    ):
        if known == name and value.type == source.type:
            return value
    return add_argument(prepare, source.type, "parameter", name)
