"""Primitives that decide where a block is computed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mlcflow.errors import ScheduleError
from mlcflow.graph.linalg_ops import (
    is_fill,
    loop_kinds,
    outputs,
    owner,
)
from mlcflow.mlir import ir, structured, tensor
from mlcflow.schedule.consumers import consumption, nest_of
from mlcflow.schedule.emit import (
    clean,
    match_block,
    match_loop,
    name_inner,
    name_loop,
)
from mlcflow.schedule.fills import is_only_way, path_to_fill, tile_in
from mlcflow.schedule.interpret import Handle
from mlcflow.schedule.labels import KIND, Loop, blocks, loop_names
from mlcflow.schedule.loops import forget, full_sizes
from mlcflow.schedule.order import perfect
from mlcflow.schedule.split import free_names

if TYPE_CHECKING:
    from mlcflow.schedule.schedule import Schedule


def tile_and_fuse(
    schedule: Schedule,
    block: str,
    sizes: Sequence[int],
    order: Sequence[int],
    *,
    overlap: bool,
) -> list[Loop]:
    """See :meth:`Schedule.tile_and_fuse`."""
    op = schedule.block(block)
    sizes = full_sizes(op, sizes)
    kinds, names, extents = loop_kinds(op), loop_names(op), schedule.loops(block)[-len(sizes) :]
    tiled = [number for number, size in enumerate(sizes) if size]
    for number in tiled:
        _check_tile(extents[number], sizes[number], overlap)
    ragged = [number for number in tiled if extents[number].extent % sizes[number]]
    if ragged and (reader := _reads_destination(schedule)):
        raise ScheduleError(
            f"tile_and_fuse: overlapping tiles of '{block}' would compute twice what "
            f"'{reader}' adds to its destination; sizes must divide the extents"
        )
    nest = [number for number in (order or range(len(sizes))) if number in tiled]
    if sorted(nest) != tiled:
        raise ScheduleError(f"tile_and_fuse: order {list(order)} does not name each tiled loop")
    nest = [number for number in nest if sizes[number] < extents[number].extent]
    tiles = [size if number in nest else 0 for number, size in enumerate(sizes)]

    parts = {number: free_names(schedule, extents[number], 2) for number in tiled}

    def build(root: Handle) -> None:
        fused = structured.FuseOp(
            match_block(root, block),
            tile_sizes=tiles,
            tile_interchange=[*nest, *(n for n in range(len(sizes)) if n not in nest)],
            apply_cleanup=False,
        )
        for handle, number in zip(fused.loops, nest, strict=True):
            name_loop(handle, block, parts[number][0], kinds[number])
            if number in ragged:
                ir.Operation.create("schedule.overlap_tiles", operands=[handle])
        inner = [parts[n][1] if n in tiled else name for n, name in enumerate(names)]
        name_inner(match_block(root, block), inner)
        clean(root)

    arguments = {"block": block, "sizes": list(sizes), "order": list(order), "overlap": overlap}
    schedule.apply("tile_and_fuse", arguments, build if nest else lambda root: None)
    for number in tiled:
        if number not in nest:
            forget(schedule, replace(extents[number], name=parts[number][0]))
    return [schedule.loop(f"{block}.{parts[number][0]}") for number in tiled]


def _check_tile(loop: Loop, size: int, overlap: bool) -> None:
    if loop.kind == "reduction":
        raise ScheduleError(f"tile_and_fuse: {loop} is a reduction; split it afterwards")
    if loop.extent < 0:
        raise ScheduleError(f"tile_and_fuse: the extent of {loop} is not known at compile time")
    if loop.extent % size and not overlap:
        raise ScheduleError(
            f"tile_and_fuse: {loop} has {loop.extent} iterations, which {size} does not divide; "
            "let tiles overlap with overlap=True"
        )


def _reads_destination(schedule: Schedule) -> str:
    """The block that reads what it writes, if there is one.

    A block whose initial value is a fill does not: the fill is computed in the tile as well.
    """
    for name, other in blocks(schedule.function).items():
        arguments = list(other.regions[0].blocks[0].arguments)
        reads = any(list(value.uses) for value in arguments[-len(other.results) :])
        starts = [owner(value) for value in outputs(other)]
        if reads and not is_fill(other) and not all(s is not None and is_fill(s) for s in starts):
            return name
    return ""


def compute_at(schedule: Schedule, block: str, loop: Loop, primitive: str) -> None:
    """See :meth:`Schedule.compute_at`."""
    op = schedule.block(block)
    _check_around(schedule, primitive, block, loop)
    users = [use.owner for result in op.results for use in result.uses]
    outside = [user for user in users if not _is_inside(user, loop)]
    # With readers inside and outside, upstream computes the block twice, or crashes.
    if outside or not users:
        readers = dict.fromkeys(name for user in outside for name in _blocks_of(schedule, user))
        raise ScheduleError(
            f"{primitive}: expected everything that reads '{block}' to be inside {loop}, "
            f"found outside: {', '.join(readers) or 'a loop as a whole, or the result'}"
        )

    def build(root: Handle) -> None:
        structured.FuseIntoContainingOp(match_block(root, block), match_loop(root, loop))
        clean(root)

    schedule.apply(primitive, {"block": block, "loop": loop}, build)


def _blocks_of(schedule: Schedule, user: ir.OpView) -> list[str]:
    """The names of the blocks that read through ``user``: a block itself, or a slice."""
    readers = [use.owner for result in user.results for use in result.uses]
    found = [user, *readers] if isinstance(user.opview, tensor.ExtractSliceOp) else [user]
    named = blocks(schedule.function).items()
    return [name for name, op in named if op.operation in [other.operation for other in found]]


def _check_around(schedule: Schedule, primitive: str, block: str, loop: Loop) -> None:
    if loop.op is None:
        raise ScheduleError(
            f"{primitive}: {loop} is inside its block; split it to have a loop around it"
        )
    if block == loop.block:
        raise ScheduleError(f"{primitive}: '{block}' cannot be computed inside its own loop")
    if _is_inside(schedule.block(block).operation, loop):
        raise ScheduleError(f"{primitive}: '{block}' is computed in {loop} already")


def _is_inside(op: ir.OpView | ir.Operation, loop: Loop) -> bool:
    parent = op.operation.parent
    while parent is not None and loop.op is not None:
        if parent == loop.op.operation:
            return True
        parent = parent.parent
    return False


def reverse_compute_at(schedule: Schedule, block: str, loop: Loop) -> None:
    """See :meth:`Schedule.reverse_compute_at`."""
    schedule.block(block)
    _check_around(schedule, "reverse_compute_at", block, loop)
    schedule.record("reverse_compute_at", {"block": block, "loop": loop})
    assert loop.op is not None
    around = nest_of(schedule.block(block), loop.op)
    loops = [
        each for each in schedule.loops(loop.block) if each.op is not None and each.op in around
    ]
    for outer, inner in itertools.pairwise(loops):
        perfect(
            schedule,
            "reverse_compute_at",
            schedule.loop(str(outer)),
            schedule.loop(str(inner)),
        )
    place = schedule.loop(str(loop)).op
    found = consumption(schedule.block(block), place) if place is not None else ""
    if isinstance(found, str):
        raise ScheduleError(f"reverse_compute_at: '{block}' cannot move into {loop}: {found}")

    def build(root: Handle) -> None:
        ir.Operation.create(
            "schedule.reverse_compute_at",
            operands=[match_loop(root, loop)],
            attributes={"block_name": ir.StringAttr.get(block)},
        )
        clean(root)

    schedule.emit(build)


def decompose_reduction(schedule: Schedule, block: str, loop: Loop) -> None:
    """See :meth:`Schedule.decompose_reduction`."""
    op = schedule.block(block)
    if "reduction" not in loop_kinds(op):
        raise ScheduleError(f"decompose_reduction: '{block}' is no reduction")
    if loop.kind == "reduction":
        raise ScheduleError(
            f"decompose_reduction: {loop} is a reduction: each iteration would start anew"
        )
    path = path_to_fill(op)
    if not path:
        raise ScheduleError(f"decompose_reduction: no fill sets the initial value of '{block}'")
    fill = next(
        n for n, other in blocks(schedule.function).items() if other == path[-1].owner.opview
    )
    if not any(isinstance(value.owner, ir.Block) for value in path):
        compute_at(schedule, fill, loop, "compute_at")
        return
    _check_around(schedule, "decompose_reduction", fill, loop)
    _check_carried(path, block, loop)

    def build(root: Handle) -> None:
        ir.Operation.create(
            "schedule.fill_at",
            operands=[match_block(root, block)],
            attributes={
                "loop_name": ir.StringAttr.get(loop.name),
                "loop_of": ir.StringAttr.get(loop.of),
            },
        )
        clean(root)

    schedule.apply("decompose_reduction", {"block": block, "loop": loop}, build)


def _check_carried(path: list[ir.Value], block: str, loop: Loop) -> None:
    """Raise unless each iteration of ``loop`` reduces into a tile of its own, which it can fill."""
    assert loop.op is not None
    carrying = [value.owner.owner.opview for value in path if isinstance(value.owner, ir.Block)]
    outside = [each for each in carrying if each == loop.op or not _is_inside(each, loop)]
    if any(ir.StringAttr(each.attributes[KIND]).value != "parallel" for each in outside):
        raise ScheduleError(
            f"decompose_reduction: a reduction loop around {loop} adds to what '{block}' has so "
            "far, and would start anew; reorder the parallel loops to the outside first"
        )
    if tile_in(path, loop.op) is None or not is_only_way(path):
        raise ScheduleError(
            f"decompose_reduction: '{block}' has no tile of its own in each iteration of {loop}; "
            "give a loop further inside"
        )
