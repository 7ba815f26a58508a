"""Primitives that change what a block is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlcflow.errors import ScheduleError
from mlcflow.graph.kernel import loop_extents
from mlcflow.graph.linalg_ops import (
    indexing_maps,
    inputs,
    is_copy,
    is_elementwise,
    is_generic,
    is_identity,
    outputs,
    owner,
    payload,
)
from mlcflow.mlir import ir, loop_transform, structured, tensor_transform, transform
from mlcflow.schedule.atomic import primitive
from mlcflow.schedule.emit import (
    annotate,
    clean,
    match_block,
    name_inner,
    name_loop,
    simplify,
)
from mlcflow.schedule.interpret import Handle
from mlcflow.schedule.labels import BLOCK, RESERVED, Loop, blocks, has_window, loop_names

if TYPE_CHECKING:
    from mlcflow.schedule.schedule import Schedule


def flatten(schedule: Schedule, block: str) -> None:
    """See :meth:`Schedule.flatten`."""
    op = schedule.block(block)
    if not is_elementwise(op):
        raise ScheduleError(f"flatten: '{block}' is not elementwise")
    shaped = zip(op.operands, indexing_maps(op), strict=True)
    odd = [n for n, (v, m) in enumerate(shaped) if not (is_identity(m) or _is_scalar(v))]
    if odd:
        raise ScheduleError(
            f"flatten: operand {odd[0]} of '{block}' is broadcast or transposed; "
            "expected each to be read element by element"
        )
    if any(inner.operation.name == "linalg.index" for inner in payload(op)):
        raise ScheduleError(f"flatten: '{block}' computes with its own position")
    if -1 in loop_extents(op) or len(loop_extents(op)) < 2:
        raise ScheduleError(
            f"flatten: expected two loops or more of known extent inside '{block}', "
            f"found {list(loop_extents(op))}"
        )

    def build(root: Handle) -> None:
        flat = structured.FlattenElementwiseLinalgOp(
            transform.AnyOpType.get(), match_block(root, block)
        )
        annotate(flat.result, BLOCK, ir.StringAttr.get(block))
        clean(root)

    schedule.apply("flatten", {"block": block}, build)


def _is_scalar(value: ir.Value) -> bool:
    return not isinstance(value.type, ir.ShapedType)


def drop_unit_loops(schedule: Schedule) -> None:
    """See :meth:`Schedule.drop_unit_loops`."""
    if not schedule.blocks():
        raise ScheduleError(
            "drop_unit_loops: no blocks are left, whose loops these are; call it before vectorize"
        )

    try:
        _drop_unit_loops(schedule, track=True)
    except ScheduleError:
        # A block that folds away cannot be tracked; then the others lose their names too.
        _drop_unit_loops(schedule, track=False)


@primitive
def _drop_unit_loops(schedule: Schedule, *, track: bool) -> None:
    found = blocks(schedule.function)
    kept = {
        name: [n for n, size in zip(loop_names(op), loop_extents(op), strict=True) if size != 1]
        for name, op in found.items()
    }
    copies = [name for name, op in found.items() if is_copy(op)]
    windows = {
        name: is_generic(op)
        for name, op in found.items()
        if 1 in loop_extents(op) and (has_window(op) or _reads_fixed_position(op))
    }

    def build(root: Handle) -> None:
        for name, is_ready in windows.items():  # the patterns below know generic windows only
            if not is_ready:
                structured.GeneralizeOp(match_block(root, name))
            ir.Operation.create("schedule.drop_window", operands=[match_block(root, name)])
        # A copy may fold away altogether, and no handle may stand for it then.
        tracked = [name for name in kept if track and name not in copies]
        handles = {name: match_block(root, name) for name in tracked}
        with ir.InsertionPoint(transform.ApplyPatternsOp(root).patterns):
            structured.ApplyFoldUnitExtentDimsViaSlicesPatternsOp()
            loop_transform.ApplyForLoopCanonicalizationPatternsOp()
            tensor_transform.ApplyMergeConsecutiveInsertExtractSlicePatternsOp()
            transform.ApplyCanonicalizationPatternsOp()
        for name, handle in handles.items():
            annotate(handle, BLOCK, ir.StringAttr.get(name))
            name_inner(handle, kept[name])
        simplify(root)

    schedule.apply("drop_unit_loops", {}, build)


def _reads_fixed_position(op: ir.OpView) -> bool:
    """Whether the position along a dimension of an operand is a number other than 0."""
    zero = ir.AffineConstantExpr.get(0, op.operation.context)
    expressions = [e for m in indexing_maps(op) for e in m.results]
    return any(isinstance(e, ir.AffineConstantExpr) and e != zero for e in expressions)


def rfactor(schedule: Schedule, loop: Loop, lanes: int) -> str:
    """See :meth:`Schedule.rfactor`."""
    op = schedule.block(loop.block)
    if loop.op is not None or loop.kind != "reduction":
        raise ScheduleError(f"rfactor: expected a reduction loop inside its block, got {loop}")
    if lanes < 1 or loop.extent < 1 or loop.extent % lanes:
        raise ScheduleError(
            f"rfactor: {loop} has {loop.extent} iterations, which {lanes} does not divide"
        )
    if len(op.results) != 1 or owner(outputs(op)[0]) is None or not inputs(op):
        raise ScheduleError(f"rfactor: '{loop.block}' must have one result and an initial value")
    names = loop_names(op)
    number = names.index(loop.name)
    sizes = [lanes if n == number else 0 for n in range(len(names))]
    inner = [f"{loop.name}_1" if name == loop.name else name for name in names]
    joined = f"{loop.block}_join"

    def build(root: Handle) -> None:
        any_op = transform.AnyOpType.get()
        factored = structured.TileReductionUsingForOp(
            [any_op],
            any_op,
            any_op,
            any_op,
            match_block(root, loop.block),
            reduction_dims=[number],
            tile_sizes=sizes,
        )
        annotate(factored.results[0], BLOCK, ir.StringAttr.get(f"{loop.block}_fill"))
        annotate(factored.results[1], BLOCK, ir.StringAttr.get(loop.block))
        name_inner(factored.results[1], inner)
        annotate(factored.results[2], BLOCK, ir.StringAttr.get(joined))
        name_loop(factored.results[3], loop.block, f"{loop.name}_0", "reduction")
        clean(root)

    schedule.apply("rfactor", {"loop": loop, "lanes": lanes}, build)
    return joined


def annotate_block(schedule: Schedule, block: str, key: str, value: str) -> None:
    """See :meth:`Schedule.annotate`."""
    schedule.block(block)
    name = f"mlcflow.{key}"
    if name in RESERVED or not key:
        raise ScheduleError(f"annotate: '{name}' is what schedules keep their own notes in")

    def build(root: Handle) -> None:
        annotate(match_block(root, block), name, ir.StringAttr.get(value))

    schedule.apply("annotate", {"block": block, "key": key, "value": value}, build)
