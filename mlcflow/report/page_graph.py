"""The graph of kernels: the calls of ``@main`` in order, and who feeds whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlcflow.check.float64 import functions
from mlcflow.check.taps import cut_stage
from mlcflow.mlir import func, ir

if TYPE_CHECKING:
    from mlcflow.runtime.executable import Executable


@dataclass(frozen=True)
class Call:
    """One call of a kernel. ``after``: the numbers of the calls whose results it reads.

    ``reads`` names the inputs of the model among its arguments; ``gives`` the outputs of the
    model among its results.
    """

    number: int
    kernel: str
    after: tuple[int, ...]
    reads: tuple[str, ...]
    gives: tuple[str, ...]


def read_graph(executable: Executable) -> tuple[Call, ...]:
    """The calls of kernels in ``@main``, as the graph was cut; none if it was not."""
    record = cut_stage(executable)
    if record is None:
        return ()
    main = functions(record.module)["main"]
    sources = _inputs(main)
    returned = main.entry_block.operations[len(main.entry_block.operations) - 1]
    found: list[Call] = []
    for op in main.entry_block.operations:
        origins = {each for value in op.operands for each in sources.get(value, ())}
        if isinstance(op, func.CallOp):
            number = len(found)
            reads = tuple(sorted(each for each in origins if isinstance(each, str)))
            after = tuple(sorted(each for each in origins if isinstance(each, int)))
            found.append(Call(number, op.callee.value, after, reads, ()))
            origins = {number}
        for result in op.results:
            sources[result] = origins
    return tuple(_with_outputs(found, returned, sources))


def _inputs(main: func.FuncOp) -> dict[ir.Value, set[int | str]]:
    from mlcflow.graph.interface import names_of

    names = names_of(main, "input")
    pairs = zip(main.arguments, names, strict=True)
    return {argument: {name} for argument, name in pairs if name is not None}


def _with_outputs(
    calls: list[Call], returned: ir.OpView, sources: dict[ir.Value, set[int | str]]
) -> list[Call]:
    gives: dict[int, list[str]] = {}
    for place, value in enumerate(returned.operands):
        for origin in sources.get(value, ()):
            if isinstance(origin, int):
                gives.setdefault(origin, []).append(f"result {place}")
    return [
        Call(each.number, each.kernel, each.after, each.reads, tuple(gives.get(each.number, ())))
        for each in calls
    ]
