"""``schedule.name_blocks``: name the linalg operations of a function and their loops."""

from mlcflow.dialects.schedule.dialect import Erase, ScheduleDialect, attach
from mlcflow.graph.kernel import read_kernel
from mlcflow.mlir import ext, ir, transform
from mlcflow.schedule.labels import label, label_new


class NameBlocks(ScheduleDialect.Operation, name="name_blocks"):
    """Name the blocks of each ``function`` that have no name yet, as ``mlcflow.block``."""

    function: ext.Operand[transform.AnyOpType]


def load() -> None:
    """Attach the interfaces, in the current context."""
    attach(NameBlocks, _apply)


def _apply(op: ir.OpView, payload: list[ir.OpView], erase: Erase) -> None:
    for function in payload:
        kernel = read_kernel(function)
        if kernel is not None:
            label(kernel)
            label_new(function)
