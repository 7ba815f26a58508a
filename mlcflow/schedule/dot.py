"""Mapping a block to the dot product instructions of x86 processors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlcflow.errors import ScheduleError
from mlcflow.graph.dot_form import dot_form
from mlcflow.graph.dots import INSTRUCTIONS, missing_feature
from mlcflow.graph.same_operation import element_type
from mlcflow.mlir import ir, tensor_transform, transform, walk, x86_transform
from mlcflow.schedule.emit import match_block
from mlcflow.schedule.interpret import Handle
from mlcflow.target import Target

if TYPE_CHECKING:
    from mlcflow.schedule.schedule import Schedule

X86_DOT = "x86.dot"
LARGEST = 1 << 10
"""Instructions that a block becomes; more are a sign that it was not tiled."""


def to_dots(schedule: Schedule, block: str, target: Target | None) -> None:
    """Make ``block`` a sequence of x86 dot products; see :meth:`Schedule.tensorize`.

    The block is ``C[m, n] += A[m, k] * B[k, n]`` with bf16 into f32, or i8 into i32, in rows or
    packed as ``pack`` leaves it: A[m, k/2, 2] and B[k/2, n, 2] (i8: 4 for 2). k is a multiple of
    2 (of 4), n of 4; n of 16 fills registers. Raises ``ScheduleError``. Upstream:
    ``transform.apply_patterns.x86.vector_contract_to_packed_type_dot_product``.
    """
    op = schedule.block(block)
    problem = why_not(op, target)
    if problem:
        raise ScheduleError(f"tensorize: '{block}' cannot be {X86_DOT}: {problem}")
    before = _dots(schedule)
    form = dot_form(op)
    assert not isinstance(form, str)

    def build(root: Handle) -> None:
        ir.Operation.create("schedule.dot_tiles", operands=[match_block(root, block)])
        with ir.InsertionPoint(transform.ApplyPatternsOp(root).patterns):
            x86_transform.apply_patterns_x86_vector_contract_to_packed_type_dot_product()
        with ir.InsertionPoint(transform.ApplyPatternsOp(root).patterns):
            tensor_transform.ApplyFoldTensorSubsetOpsIntoVectorTransfersPatternsOp()
            transform.ApplyCanonicalizationPatternsOp()

    schedule.apply("tensorize", {"block": block, "intrinsic": X86_DOT}, build)
    made = _dots(schedule) - before
    if made < form.instructions:
        raise ScheduleError(
            f"tensorize: '{block}' became {made} dot products of {form.instructions}"
        )


def why_not(op: ir.OpView, target: Target | None) -> str:
    """Why a block cannot become dot products of ``target``; empty if it can."""
    form = dot_form(op)
    if isinstance(form, str):
        return form
    if form.instructions > LARGEST:
        return (
            f"it would be {form.instructions} instructions, more than {LARGEST}; "
            "split its loops first"
        )
    return missing_feature(str(element_type(op.operands[0])), target) if target else ""


def _dots(schedule: Schedule) -> int:
    return sum(op.operation.name in INSTRUCTIONS for op in walk(schedule.function))
