"""What the tests ask about the IR of a compiled model."""

from __future__ import annotations

from collections import Counter

import mlcflow
from mlcflow.mlir import func, ir, walk


def kernel_rules(exe: mlcflow.Executable) -> dict[str, str]:
    """The rule that scheduled each kernel of ``@main``, by the kernel's name."""
    rules = {}
    for function in exe.stages["schedule"].body.operations:
        if isinstance(function, func.FuncOp) and "mlcflow.rule" in function.attributes:
            rules[function.name.value] = ir.StringAttr(function.attributes["mlcflow.rule"]).value
    return {name: rules[name] for name in calls(exe, "schedule") if name in rules}


def calls(exe: mlcflow.Executable, stage: str) -> Counter[str]:
    """How often ``@main`` calls each function."""
    return Counter(op.callee.value for op in walk(_main(exe, stage)) if isinstance(op, func.CallOp))


def count(exe: mlcflow.Executable, stage: str, name: str) -> int:
    """How many operations of that name ``@main`` holds."""
    return sum(op.operation.name == name for op in walk(_main(exe, stage)))


def _main(exe: mlcflow.Executable, stage: str) -> func.FuncOp:
    return next(
        op
        for op in exe.stages[stage].body.operations
        if isinstance(op, func.FuncOp) and op.name.value == "main"
    )
