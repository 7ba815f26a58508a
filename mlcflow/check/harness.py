"""Every kernel of a model in one program, each called once, on inputs of its own.

Numbers that reach a kernel inside a model are tame. Here each of them meets what arithmetic trips
on, and what comes out is its own doing. Kernels that are equal are one function already. What a
model prepares from its parameters is a parameter here, so that the pipeline treats it alike.
"""

from __future__ import annotations

from collections.abc import Collection

from mlcflow import mlir
from mlcflow.graph.interface import names_of
from mlcflow.graph.library_calls import declare_called
from mlcflow.graph.outline import kernels
from mlcflow.mlir import func, ir, tensor, walk

_RESHAPES = ("tensor.collapse_shape", "tensor.expand_shape", "tensor.cast")


def has_kernels(module: ir.Module) -> bool:
    """Whether the module is on tensors and its graph is cut into kernels."""
    return any(_is_on_tensors(function) for function in kernels(module))


def _is_on_tensors(function: func.FuncOp) -> bool:
    kinds = [*function.type.inputs, *function.type.results]
    return bool(function.type.results) and all(
        isinstance(kind, ir.RankedTensorType) and kind.has_static_shape for kind in kinds
    )


def kernel_harness(module: ir.Module, names: Collection[str] | None = None) -> ir.Module:
    """A module with the kernels of ``module``, or those of ``names``, and a ``@main`` for them.

    The results of ``@main`` are called ``KERNEL.NUMBER``. Kernels with open sizes, or of
    memory, are left out.
    """
    with module.context, ir.Location.unknown():
        made = ir.Module.create()
        chosen = []
        for function in kernels(module):
            if _is_on_tensors(function) and (names is None or function.name.value in names):
                copy = function.operation.clone()
                made.body.append(copy)
                chosen.append(copy.opview)
        fixed = _fixed_arguments(module)
        _call_all(made, chosen, fixed)
        declare_called(made)
        return made


def _call_all(
    module: ir.Module, chosen: list[func.FuncOp], fixed: dict[str, frozenset[int]]
) -> None:
    given = [_read_arguments(function) for function in chosen]
    kinds = [f.type.inputs[n] for f, numbers in zip(chosen, given, strict=True) for n in numbers]
    results = [kind for function in chosen for kind in function.type.results]
    with ir.InsertionPoint.at_block_begin(module.body):
        main = func.FuncOp("main", (kinds, results))
    arguments, outputs = [], []
    rest = iter(main.add_entry_block().arguments)
    with ir.InsertionPoint(main.entry_block):
        values = []
        for function, numbers in zip(chosen, given, strict=True):
            name = function.name.value
            operands = [
                next(rest) if number in numbers else _empty(kind)
                for number, kind in enumerate(function.type.inputs)
            ]
            call = func.CallOp(list(function.type.results), name, operands)
            values += list(call.results)
            for number in numbers:
                role = "parameter" if number in fixed.get(name, ()) else "input"
                arguments.append(_attribute(role, f"{name}.{number}"))
            outputs += [_attribute("output", f"{name}.{n}") for n in range(len(call.results))]
        func.ReturnOp(values)
    main.attributes["arg_attrs"] = ir.ArrayAttr.get(arguments)
    main.attributes["res_attrs"] = ir.ArrayAttr.get(outputs)


def _empty(kind: ir.Type) -> ir.Value:
    shaped = ir.RankedTensorType(kind)
    return tensor.empty(list(shaped.shape), shaped.element_type)


def _read_arguments(function: func.FuncOp) -> list[int]:
    """The numbers of the arguments but for destinations that the kernel only writes."""
    first = len(function.type.inputs) - len(function.type.results)
    arguments = list(enumerate(function.arguments))
    return [n for n, value in arguments if n < first or not all(map(_writes, value.uses))]


def _writes(use: ir.OpOperand) -> bool:
    """Whether an operation of linalg uses a value only as a place to write to."""
    op = use.owner
    if not op.operation.name.startswith("linalg.") or len(op.results) != 1:
        return False
    block = op.operation.regions[0].blocks[0]
    last = len(op.operation.operands) - 1
    return use.operand_number == last and not list(block.arguments[last].uses)


def _attribute(role: str, name: str) -> ir.DictAttr:
    attributes: dict[str, ir.Attribute] = {f"mlcflow.{role}": ir.StringAttr.get(name)}
    if role != "output":
        attributes["bufferization.writable"] = ir.BoolAttr.get(False)
    return ir.DictAttr.get(attributes)


def _fixed_arguments(module: ir.Module) -> dict[str, frozenset[int]]:
    """By kernel, the arguments that each call in ``@main`` gives what never changes."""
    main = next(
        op
        for op in module.body.operations
        if isinstance(op, func.FuncOp) and op.name.value == "main"
    )
    roles = zip(names_of(main, "parameter"), names_of(main, "prepared"), strict=True)
    constant = {
        value
        for value, names in zip(main.arguments, roles, strict=True)
        if any(name is not None for name in names)
    }
    found: dict[str, frozenset[int]] = {}
    for op in walk(main):
        if op.operation.name in _RESHAPES and op.operands[0] in constant:
            constant.add(op.results[0])
        if isinstance(op, func.CallOp):
            given = {n for n, value in enumerate(op.operands) if value in constant}
            name = op.callee.value
            found[name] = frozenset(given) & found.get(name, frozenset(given))
    return found


def harness_text(text: str, names: Collection[str] | None = None) -> str:
    """:func:`kernel_harness` from text to text; empty when there is no kernel to call."""
    module = mlir.parse(text)
    if not has_kernels(module):
        return ""
    return mlir.asm(kernel_harness(module, names), locations=True)
