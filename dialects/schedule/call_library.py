"""``schedule.call_library``: let a function of a library compute an operation."""

from mlcflow.dialects.schedule.dialect import Erase, ScheduleDialect, attach
from mlcflow.graph.library_calls import replace_by_call
from mlcflow.mlir import ext, ir, transform
from mlcflow.runtime.libraries import find_library


class CallLibrary(ScheduleDialect.Operation, name="call_library"):
    """Replace each operation of ``target`` by a call of the function ``library``.

    The function is declared in the module, and takes and gives tensors: the destination is the
    last argument.
    """

    target: ext.Operand[transform.AnyOpType]
    library: ir.StringAttr


def load() -> None:
    """Attach the interfaces, in the current context."""
    attach(CallLibrary, _apply)


def _apply(op: ir.OpView, payload: list[ir.OpView], erase: Erase) -> None:
    library = find_library(op.library.value)
    for target in payload:
        replace_by_call(target, library)
        erase(target.operation)
