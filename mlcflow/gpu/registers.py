"""Buffers of a block of which each thread uses a part of its own: they become registers."""

from __future__ import annotations

from dataclasses import dataclass

from mlcflow.gpu.axes import axis_of
from mlcflow.mlir import gpu, ir, memref, scf
from mlcflow.schedule.labels import constant

_DYNAMIC = ir.ShapedType.get_dynamic_stride_or_offset()
_Begin = tuple[int, ir.Value | None]
"""A dimension of a buffer, and where in it a view begins, if not at 0."""


@dataclass(frozen=True)
class _Begins:
    """Where a view begins: in each of its dimensions, and in those of size 1 that it leaves out."""

    kept: tuple[_Begin, ...]
    gone: tuple[_Begin, ...] = ()


@dataclass(frozen=True)
class Tile:
    """The part of a buffer that one thread uses: for each dimension of the buffer its number, the
    axis of threads along which the part moves (empty for none), and the size of the part.
    Dimensions in which that is 1, and does not move, are left out.
    """

    dims: tuple[tuple[int, str, int], ...]


def give_tiles_to_threads(
    launch: gpu.LaunchOp, allocations: list[memref.AllocOp], sizes: dict[str, int]
) -> list[memref.AllocOp]:
    """Make private memory of those of ``allocations`` that all threads use tile by tile.

    ``sizes``: threads along each axis. Every use must be a view of the tile that belongs to the
    thread by its place in all axes of more than one thread; tiles do not overlap then, and what
    a thread wrote nobody else reads. Gives the allocations that are left.
    """
    left = []
    for op in allocations:
        rank = ir.MemRefType(op.memref.type).rank
        whole = _Begins(tuple((dim, None) for dim in range(rank)))
        views = _views(op.memref, whole)
        tiles = {tile for _, tile in views} if views else set()
        if len(tiles) == 1 and _is_own(next(iter(tiles)), sizes):
            _privatize(op, [view for view, _ in views or []], next(iter(tiles)), launch)
        else:
            left.append(op)
    return left


def _views(value: ir.Value, begins: _Begins) -> list[tuple[memref.SubViewOp, Tile]] | None:
    """The innermost views of ``value`` with their tiles; ``None`` if it is used in other ways."""
    found = []
    for use in value.uses:
        op = use.owner
        if isinstance(op, memref.DeallocOp):
            continue
        if not isinstance(op, memref.SubViewOp) or use.operand_number:
            return None
        inner = _offsets(op, begins)
        if inner is None:
            return None
        tile = _tile(op, inner)
        users = [use.owner for use in op.result.uses]
        if tile is not None and not any(isinstance(user, memref.SubViewOp) for user in users):
            found.append((op, tile))
            continue
        deeper = _views(op.result, inner)
        if deeper is None:
            return None
        found += deeper
    return found


def _offsets(op: memref.SubViewOp, outer: _Begins) -> _Begins | None:
    """Where a view begins; ``None`` if that takes a sum."""
    if any(stride != 1 for stride in op.static_strides):
        return None
    dynamic, begins = iter(op.offsets), []
    for (dim, begin), offset in zip(outer.kept, op.static_offsets, strict=True):
        if offset == _DYNAMIC:
            if begin is not None:
                return None
            begin = next(dynamic)
        elif offset:
            return None
        begins.append((dim, begin))
    left_out = _left_out(list(op.static_sizes), list(ir.MemRefType(op.result.type).shape))
    kept = [begin for place, begin in enumerate(begins) if place not in left_out]
    return _Begins(tuple(kept), (*outer.gone, *(begins[place] for place in left_out)))


def _left_out(sizes: list[int], shape: list[int]) -> list[int]:
    """The dimensions of size 1 that a view of ``sizes`` leaves out to have ``shape``, the first
    that may be.
    """
    found: list[int] = []
    for dim, size in enumerate(sizes):
        if size == 1 and len(sizes) - len(shape) > len(found):
            found.append(dim)
    return found


def _tile(op: memref.SubViewOp, begins: _Begins) -> Tile | None:
    """The tile that a view is, if it moves with loops bound to threads by whole tiles."""
    kind = ir.MemRefType(op.result.type)
    if not kind.has_static_shape:
        return None
    dims = []
    sized = [*((begin, 1) for begin in begins.gone), *zip(begins.kept, kind.shape, strict=True)]
    for (dim, begin), size in sorted(sized, key=lambda item: item[0][0]):
        loop = _loop_of(begin) if begin is not None else None
        if begin is None:
            dims += [(dim, "", size)] if size > 1 else []
        elif loop is None or constant(loop.step) != size or constant(loop.lowerBound) != 0:
            return None
        else:
            dims.append((dim, axis_of(loop), size))
    return Tile(tuple(dims))


def _loop_of(value: ir.Value) -> scf.ForOp | None:
    """The loop bound to threads whose induction variable is ``value``."""
    if not isinstance(value.owner, ir.Block):
        return None
    loop = value.owner.owner
    is_bound = axis_of(loop).startswith("thread") and loop.induction_variable == value
    return loop if is_bound else None


def _is_own(tile: Tile, sizes: dict[str, int]) -> bool:
    axes = [axis for _, axis, _ in tile.dims if axis]
    needed = {a for a, size in sizes.items() if a.startswith("thread") and size > 1}
    return len(axes) == len(set(axes)) and needed <= set(axes)


def _privatize(
    op: memref.AllocOp, views: list[memref.SubViewOp], tile: Tile, launch: gpu.LaunchOp
) -> None:
    element = ir.MemRefType(op.memref.type).element_type
    longest = max((list(ir.MemRefType(view.result.type).shape) for view in views), key=len)
    with ir.InsertionPoint.at_block_begin(launch.regions[0].blocks[0]), op.location:
        own = memref.alloca(ir.MemRefType.get(longest, element), [], [])
    for view in views:
        shape = list(ir.MemRefType(view.result.type).shape)
        value = own
        if len(shape) < len(longest):
            with ir.InsertionPoint.after(own.owner), op.location:
                kind = ir.MemRefType.get(shape, element)
                value = memref.CollapseShapeOp(kind, own, _groups(longest, shape)).result
        view.result.replace_all_uses_with(value)


def _groups(long: list[int], short: list[int]) -> list[list[int]]:
    """Which dimensions of ``long`` make up each of ``short``, the rest being of size 1."""
    groups: list[list[int]] = [[] for _ in short]
    position = 0
    for dim, size in enumerate(long):
        groups[min(position, len(short) - 1)].append(dim)
        if position < len(short) and size == short[position]:
            position += 1
    return groups
