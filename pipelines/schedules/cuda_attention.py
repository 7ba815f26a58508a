"""Attention on a GPU: a block for some queries of a head, the scores of some keys at a time."""

from __future__ import annotations

import math

from mlcflow.gpu.memory import SHARED_BYTES
from mlcflow.gpu.mma_form import COLUMNS, GPU_FMA, NVGPU_MMA, NVGPU_MMA_TF32, ROWS
from mlcflow.graph.attention_products import product_of
from mlcflow.graph.kernel import Kernel
from mlcflow.graph.linalg_ops import indexing_maps, inputs, owner
from mlcflow.graph.same_operation import element_type
from mlcflow.mlir import ir, tensor
from mlcflow.pipelines.schedules.cuda_contraction import MOST_BLOCKS, bind_blocks
from mlcflow.pipelines.schedules.cuda_threads import join
from mlcflow.schedule.labels import Loop
from mlcflow.schedule.rolling import Rows, read_rows
from mlcflow.schedule.schedule import Schedule
from mlcflow.target import Target

WARPS = 4
TILES = ((32, 32), (16, 64), (16, 32), (16, 16))
"""Queries and keys whose scores a warp keeps in registers, the best first: what it reads of K and V
serves all of its queries."""
WIDEST = 64
"""Elements of a head up to which the registers of a warp suffice for 32 queries."""
LONGEST = {2: 352, 4: 160}
"""Elements of a head of K and one of V, by their bytes, up to which these suffice for more than 16
keys."""
STAGES = 2
"""Tiles of K, and of V, in shared memory: one in use, one on its way."""
WIDTHS = {"f16": 2, "bf16": 2, "f32": 4}
"""Bytes of the types that are multiplied."""


def rule(kernel: Kernel, target: Target, *, tf32: bool = False) -> Schedule | None:
    """``softmax(Q K^T + mask) V`` without scores in memory.

    A warp keeps its queries, their scores with some keys and its part of the result in registers;
    the largest score and the sum of each row so far go along (see ``rolling_update``). Tiles of K
    and V are copied to shared memory, ahead of their use where their rows are whole 16 bytes.
    Applies to f16 and bf16, on tensor cores, and to f32; ``tf32``: on tensor cores, too.
    """
    if kernel.kind != "attention" or not kernel.is_static:
        return None
    *heads, queries, _, _ = kernel.loops
    rows = read_rows(kernel.root, len(heads))
    tile = None if isinstance(rows, str) else _tile(rows, math.prod(heads), target)
    if isinstance(rows, str) or tile is None or math.prod(heads) > MOST_BLOCKS:
        return None
    own, keys = tile
    schedule = Schedule(kernel)
    values = next(name for name in schedule.blocks() if schedule.block(name) == rows.product)
    blocks = _tile_queries(schedule, min(own * WARPS, queries - queries % own), len(heads))
    schedule.drop_unit_loops()
    held = [schedule.cache_read("root", 0)]
    schedule.rolling_update("root", keys)
    held += [block for block in schedule.blocks() if block not in held]
    for product in ("root", values):
        _copy_tiles(schedule, product)
    *over_heads, over_queries = blocks
    bind_blocks(schedule, [join(schedule, over_heads), over_queries] if heads else blocks)
    for block in held:
        row = next(loop for loop in schedule.loops(block) if loop.op is None)
        warps, _ = schedule.split(row, [None, own])
        schedule.bind(warps, "thread.y")
    for product in ("root", values):
        kind = str(element_type(inputs(schedule.block(product))[0]))
        by_choice = NVGPU_MMA_TF32 if tf32 else GPU_FMA
        schedule.tensorize(product, by_choice if kind == "f32" else NVGPU_MMA, target)
    return schedule


def _tile(rows: Rows, heads: int, target: Target) -> tuple[int, int] | None:
    """Queries of a warp, and keys at a time, so that tiles of K and V fit, and each multiprocessor
    has a block; ``None`` if these are no such products.
    """
    scores, values = product_of(rows.scores), product_of(rows.product)
    kinds = {str(element_type(v)) for op in (rows.scores, rows.product) for v in inputs(op)}
    if scores is None or values is None or len(kinds) != 1 or not kinds <= set(WIDTHS):
        return None
    if scores.depth % COLUMNS or values.columns % COLUMNS:
        return None
    wide = WIDTHS[kinds.pop()]
    row = (scores.depth + values.columns) * wide * STAGES
    for queries, keys in TILES:
        many = heads * (scores.rows // (queries * WARPS)) >= target.cores
        is_small = max(scores.depth, values.columns) <= WIDEST and wide == 2
        if queries > ROWS and not (many and is_small):
            continue
        if keys > ROWS and scores.depth + values.columns > LONGEST[wide]:
            continue
        if queries <= scores.rows and keys <= scores.columns and keys * row <= SHARED_BYTES:
            return queries, keys
    return None


def _copy_tiles(schedule: Schedule, product: str) -> None:
    """Tiles of the right matrix in shared memory."""
    tile = inputs(schedule.block(product))[1]
    whole = tile
    while isinstance(cut := owner(whole), tensor.ExtractSliceOp):
        whole = cut.source
    rows = [ir.ShapedType(value.type).shape[-1] for value in (tile, whole)]
    copy = schedule.cache_read(product, 1)
    if not any(row * ir.ShapedType(tile.type).element_type.width % 128 for row in rows):
        schedule.annotate(copy, "stages", str(STAGES))


def _tile_queries(schedule: Schedule, rows: int, batch: int) -> list[Loop]:
    """Compute everything for ``rows`` queries of a head in a block; gives the loops.

    The result may lie in another order than b, m, n.
    """
    read = [e.position for e in indexing_maps(schedule.block("final"))[1].results]
    outer = read[: batch + 1]
    sizes = [int(number in outer) for number in range(len(read))]
    sizes[outer[-1]] = rows
    loops = schedule.tile_and_fuse("final", sizes, order=[*outer, read[-1]], overlap=True)
    place = dict(zip(sorted(outer), loops, strict=True))
    return [place[number] for number in outer]
