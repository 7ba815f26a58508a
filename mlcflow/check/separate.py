"""A function for each loop nest of a large model, so that the reference lowering compiles fast."""

from __future__ import annotations

from mlcflow.graph.interface import entry_points
from mlcflow.graph.linalg_ops import captured, owner
from mlcflow.mlir import func, ir, walk
from mlcflow.passes import Pass


def separate_loops(module: ir.Module) -> None:
    """Move each linalg operation on memory in an entry point to a function; equal ones share it.

    What it computes, and in which order, stays the same. LLVM takes far longer over one function
    of a thousand loops than over a thousand functions, and twelve equal layers are compiled once.
    """
    symbols = ir.SymbolTable(module.operation)
    found = [op for function in entry_points(module) for op in walk(function) if _is_nest(op)]
    for op in found:
        _move(op, module.body, symbols)
    if found:
        Pass("duplicate-function-elimination")(module)
        Pass("symbol-dce")(module)


def _is_nest(op: ir.OpView) -> bool:
    """Whether it is a linalg operation, on memory, and not inside another."""
    names = op.operation.name, op.operation.parent.name
    return [name.startswith("linalg.") for name in names] == [True, False] and not op.results


def _move(op: ir.OpView, body: ir.Block, symbols: ir.SymbolTable) -> None:
    """Replace the operation by a call to a function that holds it."""
    used = list(dict.fromkeys([*op.operation.operands, *captured(op)]))
    constants = [value for value in used if _is_scalar_constant(value)]
    arguments = [value for value in used if value not in constants]
    kinds = [value.type for value in arguments]
    with ir.InsertionPoint(body), op.location:
        function = func.FuncOp("loops", (kinds, []), visibility="private")
        symbols.insert(function)
        function.attributes["mlcflow.kernel"] = ir.UnitAttr.get()
        copies = dict(zip(arguments, function.add_entry_block().arguments, strict=True))
        with ir.InsertionPoint(function.entry_block):
            copies |= {value: value.owner.clone().results[0] for value in constants}
            copy = op.operation.clone()
            func.ReturnOp([])
    with ir.InsertionPoint(op), op.location:
        func.CallOp([], function.name.value, arguments)
    for inner in [copy, *(nested.operation for nested in walk(copy))]:
        for number, operand in enumerate(inner.operands):
            inner.operands[number] = copies.get(operand, operand)
    op.operation.erase()


def _is_scalar_constant(value: ir.Value) -> bool:
    producer = owner(value)
    constant = producer is not None and producer.operation.name == "arith.constant"
    return constant and not isinstance(value.type, ir.ShapedType)
