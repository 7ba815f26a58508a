"""Primitives that map blocks to vector operations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mlcflow.errors import ScheduleError
from mlcflow.graph.kernel import loop_extents
from mlcflow.graph.linalg_ops import (
    captured,
    combines_inputs,
    is_fill,
    is_generic,
    loop_kinds,
    payload,
)
from mlcflow.mlir import (
    ir,
    linalg,
    loop_transform,
    scf,
    structured,
    tensor_transform,
    transform,
    walk,
)
from mlcflow.schedule.emit import match_block, match_loops, simplify
from mlcflow.schedule.interpret import Handle
from mlcflow.schedule.labels import blocks, has_window

if TYPE_CHECKING:
    from mlcflow.schedule.schedule import Schedule

LARGEST = 1 << 14
"""Elements of a vector; a larger one is a sign that the block was not tiled."""

VECTOR_PAYLOAD = ("arith.", "math.", "linalg.index", "affine.apply")
"""What the names of operations begin with that upstream vectorizes in the body of a block."""

SCALAR_ONLY = frozenset({"math.fpowi", "math.ipowi"})
"""Operations that upstream lowers for scalars only."""


def vectorize(schedule: Schedule, chosen: list[str]) -> None:
    """See :meth:`Schedule.vectorize`."""
    names = chosen or schedule.blocks()
    if not names:
        raise ScheduleError(f"vectorize: kernel '{schedule.kernel.name}' has no blocks left")
    found = {name: op for name, op in blocks(schedule.function).items() if name in names}
    missing = [name for name in names if name not in found]
    if missing:
        schedule.block(missing[0])  # says what there is
    problems = [p for name in names if (p := why_not(found[name], name))]
    if problems:
        raise ScheduleError("vectorize: " + "; ".join(problems))

    generic = {name for name in names if _is_generic_contraction(found[name])}

    def build(root: Handle) -> None:
        for name in names:
            block = match_block(root, name)
            if name in generic:
                any_op = transform.AnyOpType.get()
                block = structured.SpecializeOp(any_op, block, emit_category=True).result
            vectorized = structured.VectorizeOp(block, [])
            # Without it the vectorizer broadcasts the operands of a contraction, which then
            # never becomes a vector.contract.
            vectorized.operation.attributes["create_named_contraction"] = ir.UnitAttr.get()
        with ir.InsertionPoint(transform.ApplyPatternsOp(root).patterns):
            # A tile of what lies between two blocks needs the space of a tile only.
            tensor_transform.ApplyFoldTensorEmptyPatternsOp()
            tensor_transform.ApplyFoldTensorSubsetOpsIntoVectorTransfersPatternsOp()
            transform.ApplyCanonicalizationPatternsOp()

    schedule.apply("vectorize", {"blocks": chosen}, build)


def _is_generic_contraction(op: ir.OpView) -> bool:
    """A contraction that the vectorizer sees as one only when it is called so."""
    return is_generic(op) and linalg.isa_contraction_op(op.operation)


def why_not(op: ir.OpView, name: str) -> str:
    """Why a block cannot be vectorized; empty if it can."""
    extents = loop_extents(op)
    if any(extent < 0 for extent in extents):
        return f"'{name}' has a loop of unknown extent"
    if math.prod(extents) > LARGEST:
        return (
            f"'{name}' would be a vector of {' x '.join(map(str, extents))} elements, more "
            f"than {LARGEST}; split its loops first"
        )
    if is_fill(op):
        return ""
    if has_window(op):
        return f"'{name}' moves through a window; split its loops to 1 and drop_unit_loops"
    inner = [other.operation.name for other in payload(op)] if op.regions else []
    odd = [n for n in inner if not n.startswith(VECTOR_PAYLOAD)]
    odd += [n for n in inner if n in SCALAR_ONLY]
    if odd or any(isinstance(value.type, ir.ShapedType) for value in captured(op)):
        return f"'{name}' contains {odd[0] if odd else 'reads of a captured tensor'}"
    if any(_element_bits(v.type) < 8 for v in [*op.operands] if isinstance(v.type, ir.ShapedType)):
        # A vector of i1 is packed bits, an array of i1 a byte each.
        return f"'{name}' reads or writes booleans"
    if "reduction" in loop_kinds(op) and not (
        linalg.isa_contraction_op(op.operation) or combines_inputs(op)
    ):
        return f"'{name}' is no sum, product, maximum or the like of its inputs"
    if loop_kinds(op).count("reduction") > 1 and not linalg.isa_contraction_op(op.operation):
        return f"'{name}' reduces several loops at once; split all but one to 1"
    return ""


def _element_bits(kind: ir.ShapedType) -> int:
    element = kind.element_type
    return element.width if isinstance(element, ir.IntegerType | ir.FloatType) else 8


def hoist(schedule: Schedule) -> None:
    """See :meth:`Schedule.hoist`."""
    operations = walk(schedule.function)
    if not any(isinstance(op, scf.ForOp) for op in operations) and schedule.blocks():
        raise ScheduleError(
            f"hoist: kernel '{schedule.kernel.name}' has no loop to move anything out of; "
            "split or tile its blocks first"
        )

    def build(root: Handle) -> None:
        transform.ApplyLoopInvariantCodeMotionOp(match_loops(root))
        loop_transform.HoistLoopInvariantSubsetsOp(match_loops(root))
        simplify(root)

    schedule.apply("hoist", {}, build)
