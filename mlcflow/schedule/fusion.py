"""Primitives that decide where a block is computed, and what it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mlcflow.errors import ScheduleError
from mlcflow.graph.linalg_ops import inputs, is_elementwise, is_fill, loop_kinds, outputs, owner
from mlcflow.mlir import ir, loop_transform, structured, tensor_transform, transform
from mlcflow.schedule.emit import (
    annotate,
    clean,
    match_block,
    match_loop,
    name_inner,
    name_loop,
    simplify,
)
from mlcflow.schedule.interpret import Handle
from mlcflow.schedule.labels import BLOCK, Loop, blocks, loop_names
from mlcflow.schedule.loops import forget, full_sizes

if TYPE_CHECKING:
    from mlcflow.schedule.schedule import Schedule


def tile_and_fuse(
    schedule: Schedule, block: str, sizes: Sequence[int], order: Sequence[int]
) -> list[Loop]:
    """See :meth:`Schedule.tile_and_fuse`."""
    op = schedule.block(block)
    sizes = full_sizes(op, sizes)
    kinds, names, extents = loop_kinds(op), loop_names(op), schedule.loops(block)[-len(sizes) :]
    tiled = [number for number, size in enumerate(sizes) if size]
    for number in tiled:
        if kinds[number] == "reduction":
            raise ScheduleError(
                f"tile_and_fuse: {block}.{names[number]} is a reduction; split it afterwards"
            )
        extent = extents[number].extent
        if extent < 0 or extent % sizes[number]:
            raise ScheduleError(
                f"tile_and_fuse: {block}.{names[number]} has {extent} iterations, which "
                f"{sizes[number]} does not divide"
            )
    nest = [number for number in (order or range(len(sizes))) if number in tiled]
    if sorted(nest) != tiled:
        raise ScheduleError(f"tile_and_fuse: order {list(order)} does not name each tiled loop")
    nest = [number for number in nest if sizes[number] < extents[number].extent]
    tiles = [size if number in nest else 0 for number, size in enumerate(sizes)]

    def build(root: Handle) -> None:
        fused = structured.FuseOp(
            match_block(root, block),
            tile_sizes=tiles,
            tile_interchange=[*nest, *(n for n in range(len(sizes)) if n not in nest)],
            apply_cleanup=False,
        )
        for handle, number in zip(fused.loops, nest, strict=True):
            name_loop(handle, block, f"{names[number]}_0", kinds[number])
        inner = [f"{name}_1" if n in tiled else name for n, name in enumerate(names)]
        name_inner(match_block(root, block), inner)
        clean(root)

    arguments = {"block": block, "sizes": list(sizes), "order": list(order)}
    schedule.apply("tile_and_fuse", arguments, build if nest else lambda root: None)
    for number in tiled:
        if number not in nest:
            forget(schedule, replace(extents[number], name=f"{names[number]}_0"))
    return [schedule.loop(f"{block}.{names[number]}_0") for number in tiled]


def compute_at(schedule: Schedule, block: str, loop: Loop, primitive: str) -> None:
    """See :meth:`Schedule.compute_at`."""
    schedule.block(block)
    if loop.op is None:
        raise ScheduleError(
            f"{primitive}: {loop} is inside its block; split it to have a loop around it"
        )
    if schedule.block(block).operation.parent == loop.op.operation:
        raise ScheduleError(f"{primitive}: '{block}' is computed in {loop} already")
    if block == loop.block:
        raise ScheduleError(f"{primitive}: '{block}' cannot be computed inside its own loop")

    def build(root: Handle) -> None:
        structured.FuseIntoContainingOp(match_block(root, block), match_loop(root, loop))
        clean(root)

    schedule.apply(primitive, {"block": block, "loop": loop}, build)


def decompose_reduction(schedule: Schedule, block: str, loop: Loop) -> None:
    """See :meth:`Schedule.decompose_reduction`."""
    op = schedule.block(block)
    if "reduction" not in loop_kinds(op):
        raise ScheduleError(f"decompose_reduction: '{block}' is no reduction")
    fills = [name for name, other in blocks(schedule.function).items() if is_fill(other)]
    if not fills:
        raise ScheduleError(f"decompose_reduction: no fill sets the initial value of '{block}'")
    compute_at(schedule, fills[0], loop, "compute_at")


def flatten(schedule: Schedule, block: str) -> None:
    """See :meth:`Schedule.flatten`."""
    if not is_elementwise(schedule.block(block)):
        raise ScheduleError(f"flatten: '{block}' is not elementwise")

    def build(root: Handle) -> None:
        structured.FlattenElementwiseLinalgOp(transform.AnyOpType.get(), match_block(root, block))
        clean(root)

    schedule.apply("flatten", {"block": block}, build)


def drop_unit_loops(schedule: Schedule) -> None:
    """See :meth:`Schedule.drop_unit_loops`."""

    def build(root: Handle) -> None:
        with ir.InsertionPoint(transform.ApplyPatternsOp(root).patterns):
            structured.ApplyFoldUnitExtentDimsViaSlicesPatternsOp()
            loop_transform.ApplyForLoopCanonicalizationPatternsOp()
            tensor_transform.ApplyMergeConsecutiveInsertExtractSlicePatternsOp()
            transform.ApplyCanonicalizationPatternsOp()
        simplify(root)

    schedule.apply("drop_unit_loops", {}, build)


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
        annotate(factored.results[2], BLOCK, ir.StringAttr.get(joined))
        name_loop(factored.results[3], loop.block, f"{loop.name}_0", "reduction")
        clean(root)

    schedule.apply("rfactor", {"loop": loop, "lanes": lanes}, build)
    return joined


def annotate_block(schedule: Schedule, block: str, key: str, value: str) -> None:
    """See :meth:`Schedule.annotate`."""
    schedule.block(block)
    name = f"mlcflow.{key}"

    def build(root: Handle) -> None:
        annotate(match_block(root, block), name, ir.StringAttr.get(value))

    schedule.apply("annotate", {"block": block, "key": key, "value": value}, build)
