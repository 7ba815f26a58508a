"""The primitive that maps a block to a primitive of the hardware or to a library function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlcflow.errors import MlcflowError, ScheduleError, unknown_name
from mlcflow.gpu.mma_form import FACTORS
from mlcflow.graph.library_calls import operands_for
from mlcflow.graph.same_operation import element_type
from mlcflow.mlir import ir, linalg, tensor
from mlcflow.runtime import libraries
from mlcflow.runtime.library import Library
from mlcflow.schedule.dot import X86_DOT, to_dots
from mlcflow.schedule.emit import clean, match_block
from mlcflow.schedule.interpret import Handle
from mlcflow.schedule.mma import to_mma
from mlcflow.schedule.vectors import vectorize
from mlcflow.target import Target

if TYPE_CHECKING:
    from mlcflow.schedule.schedule import Schedule

INTRINSICS = ("vector.contract", X86_DOT, *FACTORS)
LIBRARY = "library:"


def tensorize(schedule: Schedule, block: str, intrinsic: str, target: Target | None = None) -> None:
    """See :meth:`Schedule.tensorize`."""
    if intrinsic.startswith(LIBRARY):
        _to_library(schedule, block, intrinsic)
        return
    known = [*INTRINSICS, *(f"{LIBRARY}{name}" for name in libraries.names())]
    if intrinsic not in INTRINSICS:
        raise ScheduleError(unknown_name("intrinsic", intrinsic, known))
    op = schedule.block(block)
    if intrinsic == X86_DOT:
        to_dots(schedule, block, target)
        return
    if intrinsic in FACTORS:
        to_mma(schedule, block, intrinsic, target)
        return
    if not linalg.isa_contraction_op(op.operation):
        raise ScheduleError(f"tensorize: '{block}' ({op.operation.name}) is no contraction")
    vectorize(schedule, [block])


def _to_library(schedule: Schedule, block: str, intrinsic: str) -> None:
    try:
        library = libraries.find_library(intrinsic.removeprefix(LIBRARY))
    except MlcflowError as error:
        raise ScheduleError(f"tensorize: {error}") from error
    op = schedule.block(block)
    problem = why_not(op, library)
    if problem:
        raise ScheduleError(f"tensorize: '{block}' cannot be {intrinsic}: {problem}")

    def build(root: Handle) -> None:
        ir.Operation.create(
            "schedule.call_library",
            operands=[match_block(root, block)],
            attributes={"library": ir.StringAttr.get(library.name)},
        )
        clean(root)

    schedule.apply("tensorize", {"block": block, "intrinsic": intrinsic}, build)


def why_not(op: ir.OpView, library: Library) -> str:
    """Why a library function cannot compute ``op``; empty if it can."""
    order = operands_for(library, op)
    if order is None:
        found = ", ".join(dict.fromkeys(str(element_type(value)) for value in op.operands))
        others = [
            f"{LIBRARY}{name}"
            for name, other in libraries.LIBRARIES.items()
            if operands_for(other, op) is not None
        ]
        return (
            f"it computes {library.computes} of {library.dtype}; the block is "
            f"{op.operation.name} of {found}{'; use ' + ' or '.join(others) if others else ''}"
        )
    if library.unit_stride:
        for number, name in zip(order, library.arrays, strict=True):
            if not _rows_are_contiguous(op.operands[number]):
                return (
                    f"it takes arrays whose rows are contiguous, and {name} would be a column "
                    "of a larger array; cache_read or cache_write it first"
                )
    return ""


def _rows_are_contiguous(value: ir.Value) -> bool:
    """Whether the elements of a row will lie side by side, which slices may prevent.

    Whole tensors are in row-major order.
    """
    owner = value.owner
    if isinstance(owner, ir.Block) or not isinstance(owner, tensor.ExtractSliceOp):
        return True
    source = ir.RankedTensorType(owner.source.type)
    if owner.static_strides[source.rank - 1] != 1:
        return False
    drops_last = (
        ir.RankedTensorType(owner.result.type).rank < source.rank
        and owner.static_sizes[source.rank - 1] == 1
        and source.shape[source.rank - 1] != 1
    )
    return not drops_last and _rows_are_contiguous(owner.source)
