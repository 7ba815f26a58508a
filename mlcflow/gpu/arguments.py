"""Arguments that a function gets from its callers."""

from __future__ import annotations

from collections.abc import Callable

from mlcflow.graph.interface import ENTRY_POINTS, add_argument, names_of
from mlcflow.mlir import func, ir, walk


def add_to_callers(
    function: func.FuncOp, kind: ir.Type, module: ir.Module, make: Callable[[func.CallOp], ir.Value]
) -> ir.Value:
    """A new last argument of ``function``, for which each call passes what ``make(call)`` gives.

    ``make`` is called with the insertion point before the call.
    """
    argument = function.entry_block.add_argument(kind, function.location)
    inputs = [value.type for value in function.entry_block.arguments]
    signature = ir.FunctionType.get(inputs, function.type.results)
    function.attributes["function_type"] = ir.TypeAttr.get(signature)
    for call in walk(module.operation):
        if isinstance(call, func.CallOp) and call.callee.value == function.name.value:
            results = [result.type for result in call.results]
            with ir.InsertionPoint(call), call.location:
                operands = [*call.operands, make(call)]
                again = func.CallOp(results, function.name.value, operands)
            for old, new in zip(call.results, again.results, strict=True):
                old.replace_all_uses_with(new)
            call.operation.erase()
    return argument


def pass_from_callers(
    function: func.FuncOp, kind: ir.Type, role: str, module: ir.Module
) -> ir.Value:
    """An argument of ``function`` for the value of ``role`` that the runtime brings.

    The entry points above it get one, too; each has one at most.
    """
    if function.name.value in ENTRY_POINTS:
        names = names_of(function, role)
        if any(names):
            return function.arguments[next(n for n, name in enumerate(names) if name)]
        return add_argument(function, kind, role, role)

    def make(call: func.CallOp) -> ir.Value:
        caller = call.operation.parent
        while not isinstance(caller.opview, func.FuncOp):
            caller = caller.parent
        return pass_from_callers(caller.opview, kind, role, module)

    return add_to_callers(function, kind, module, make)
