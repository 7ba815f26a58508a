"""Attention: the scores of some queries at a time, from the first product to the result."""

from __future__ import annotations

import math

from mlcflow.graph.kernel import Kernel
from mlcflow.graph.linalg_ops import indexing_maps, is_elementwise, is_fill, loop_kinds
from mlcflow.mlir import ir, linalg
from mlcflow.pipelines.schedules.elementwise import VECTORS
from mlcflow.pipelines.schedules.rows import split_row
from mlcflow.pipelines.schedules.threads import PIECES, run_in_threads
from mlcflow.pipelines.schedules.tiles import divisor, row_block, row_tile
from mlcflow.schedule.labels import Loop
from mlcflow.schedule.schedule import Schedule
from mlcflow.target import Target

DEPTH = 4
"""Steps along a reduction at once, as for other products."""


def rule(kernel: Kernel, target: Target) -> Schedule | None:
    """``softmax(Q K^T + mask) V`` by blocks of queries, whose scores stay in the L1 cache.

    Panels of K, and of a V whose rows lie apart, are made once for each head. All keys of a
    query are there at once, so nothing is scaled again; the scores of longer rows are in the
    L2 cache. Applies to static shapes of f32.
    """
    if kernel.kind != "attention" or not kernel.is_static or kernel.element_types != {"f32"}:
        return None
    *heads, m, n, _ = kernel.loops
    lanes = target.lanes(32)
    mi, rows = row_block(m, n, target.vector_registers, target.caches[0])
    schedule = Schedule(kernel)
    loops = _tile_queries(schedule, rows, len(heads))
    values = [name for name in schedule.blocks() if _is_product(schedule.block(name))][-1]
    lies = _lies(schedule.block(values))
    copies = [_tile_scores(schedule, (mi, _columns(n, lanes)), loops, lanes)]
    schedule.drop_unit_loops()
    tiles = _tile_values(schedule, values, mi, lanes)
    if lies != sorted(lies):
        copies.append(_copy_panels(schedule, values, tiles[-1], [loops[-1], *tiles[-2:-1]], lanes))
    _run_in_threads(schedule, loops, [copy for copy in copies if copy], target)
    if inner := [loop for loop in tiles if not loop.is_gone]:
        schedule.decompose_reduction(values, inner[-1])
        schedule.reverse_compute_at("final", inner[-1])
    for product in ("root", values):
        _split_depth(schedule, product)
    for block in schedule.blocks():
        _split_rows(schedule, block, n, VECTORS * lanes)
    schedule.drop_unit_loops()
    schedule.vectorize()
    schedule.hoist()
    return schedule


def _is_product(op: ir.OpView) -> bool:
    return linalg.isa_contraction_op(op.operation)


def _columns(n: int, lanes: int) -> int:
    """Keys of a panel: two vectors, or as many as make at least two panels."""
    size = 2 * lanes
    while size >= n:
        size //= 2
    return size


def _tile_queries(schedule: Schedule, rows: int, batch: int) -> list[Loop]:
    """Compute everything for ``rows`` queries of a head at a time; gives the loops.

    The last goes over the queries. The result may lie in another order than b, m, n.
    """
    read = [e.position for e in indexing_maps(schedule.block("final"))[1].results]
    outer = read[: batch + 1]
    sizes = [0] * len(read)
    for number in outer:
        sizes[number] = 1
    sizes[outer[-1]] = rows
    loops = schedule.tile_and_fuse("final", sizes, order=[*outer, read[-1]], overlap=True)
    place = dict(zip(sorted(outer), loops, strict=True))
    return [place[number] for number in outer]


def _tile_scores(schedule: Schedule, tile: tuple[int, int], loops: list[Loop], lanes: int) -> str:
    """Q times panels of K, with the mask, in registers; gives the block that makes the panels."""
    root, batch = schedule.block("root"), len(loops) - 1
    readers = [name for name in schedule.blocks() if _reads(schedule.block(name), root)]
    is_masked = len(readers) == 1 and is_elementwise(schedule.block(readers[0]))
    sizes, order = [*[0] * batch, *tile], [*range(batch), batch + 1, batch]
    last = readers[0] if is_masked else "root"
    tiles = schedule.tile_and_fuse(last, sizes, order=order, overlap=True)
    return _copy_panels(schedule, "root", tiles[-1], loops[-1:], lanes)


def _reads(op: ir.OpView, producer: ir.OpView) -> bool:
    return any(value in list(op.operation.operands) for value in producer.results)


def _tile_values(schedule: Schedule, values: str, mi: int, lanes: int) -> list[Loop]:
    """Tiles of weights times V; gives the loops over queries and columns."""
    *_, rows, columns, _ = schedule.loops(values)
    sizes = [0] * len([loop for loop in schedule.loops(values) if loop.op is None])
    sizes[-3:-1] = [min(mi, rows.extent), row_tile(columns.extent, lanes)]
    return schedule.tile(values, sizes)


def _lies(product: ir.OpView) -> list[int]:
    """The loops that the dimensions of the right matrix go with, counted as b, k, n.

    Without those of ``b`` in which it stays the same.
    """
    maps = indexing_maps(product)
    *batch, k, n = [*range(maps[0].n_dims - 3), maps[0].n_dims - 1, maps[0].n_dims - 2]
    read = [e.position for e in maps[1].results]
    order = [loop for loop in [*batch, k, n] if loop in read]
    return [order.index(loop) for loop in read]


def _copy_panels(
    schedule: Schedule, product: str, columns: Loop, rows: list[Loop], lanes: int
) -> str:
    """Copy the right matrix, in the order b, k, n, ahead of the loops over rows; gives the block.

    By squares, of which each line of memory is read and written as a whole.
    """
    if columns.is_gone:
        return ""
    lies = _lies(schedule.block(product))
    turn = [lies.index(number) for number in range(len(lies))] if lies != sorted(lies) else []
    around = [f"{product}.{loop.name}" for loop in [*rows, columns] if not loop.is_gone]
    copy = schedule.cache_read(product, 1, panels=around[-1], permutation=turn, ahead=around[0])
    for loop in schedule.loops(copy)[-2:]:
        schedule.split(loop, [None, divisor(loop.extent, lanes)])
    return copy


def _run_in_threads(
    schedule: Schedule, loops: list[Loop], copies: list[str], target: Target
) -> None:
    """Heads in threads, if these share them evenly; else what is done for one head."""
    *heads, queries = loops
    count = math.prod(head.extent for head in heads)
    if count % target.cores == 0 or count >= PIECES * target.cores:
        run_in_threads(schedule, heads, target)
        return
    run_in_threads(schedule, [queries], target)
    for copy in copies:
        inside = [loop for loop in schedule.loops(copy) if loop.of == copy]
        run_in_threads(schedule, inside[:1], target)


def _split_depth(schedule: Schedule, product: str) -> None:
    loop = schedule.loops(product)[-1]
    if loop.extent >= 2 * DEPTH:
        size = divisor(loop.extent, DEPTH)
        schedule.split(loop, [None, size if size > 1 else DEPTH], peel=size == 1)


def _split_rows(schedule: Schedule, block: str, columns: int, width: int) -> None:
    """Let ``block``, if it goes over rows of scores, do so one row after the other."""
    op = schedule.block(block)
    inner = [loop for loop in schedule.loops(block) if loop.op is None and loop.extent > 1]
    is_row = len(inner) == 2 and inner[1].extent == columns
    is_own = is_elementwise(op) or "reduction" in loop_kinds(op)
    if is_row and is_own and not is_fill(op) and not _is_product(op):
        schedule.split(inner[0], [None, 1])
        split_row(schedule, block, columns, width)
