"""Matrix products on the tensor cores of a GPU."""

from __future__ import annotations

from mlcflow.gpu.mma_form import DEPTHS, NVGPU_MMA, NVGPU_MMA_TF32
from mlcflow.graph.kernel import Kernel
from mlcflow.graph.same_operation import element_type
from mlcflow.pipelines.schedules.cuda_contraction import (
    MOST_BLOCKS,
    bind_tiles,
    is_row_major,
    tile_product,
)
from mlcflow.schedule.schedule import Schedule
from mlcflow.target import Target

BLOCKS = ((128, 128), (128, 64), (64, 64), (32, 64), (32, 32), (16, 32))
"""Rows and columns of the result that a block computes, the best for large matrices first."""
WARP = (64, 32)
"""Rows and columns of the result that a warp keeps in registers, at most: 64 each thread."""
STAGES = 3
"""Tiles of each operand in shared memory: one in use, two on their way. At 128 x 128 results and
64 bytes along k these are the 48 KiB that a kernel may declare."""
BYTES = 64
"""Of each row of A in shared memory: so many bytes along k."""


def rule(kernel: Kernel, target: Target, *, tf32: bool = False) -> Schedule | None:
    """``C[b, m, n] += A[b, m, k] * B[b, k, n]`` of f16 or bf16 into f32, with its epilogue.

    A block copies tiles of A and B to shared memory, several parts of ``k`` ahead; a warp keeps a
    tile of up to 64 x 32 sums in registers over all of ``k``, and the epilogue works on them.
    Applies to static shapes with rows of whole 16 bytes, which is what is copied at once.
    ``tf32``: to f32 as well, whose factors are rounded to 11 bits.
    """
    form = product_form(kernel, tf32=tf32)
    if form is None:
        return None
    kind, batch, m, n, k = form
    wide = 4 if kind == "f32" else 2
    depth = next((d for d in (BYTES // wide, BYTES // wide // 2) if k % d == 0), 0)
    if not depth or n % (16 // wide):
        return None
    block = best_block(BLOCKS, m, n, batch, target)
    if block is None:
        return None
    schedule = Schedule(kernel)
    blocks, write = tile_product(schedule, kernel, block, depth)
    for operand in (0, 1):
        copy = schedule.cache_read("root", operand)
        schedule.annotate(copy, "stages", str(STAGES))
    bind_tiles(schedule, blocks)
    fills = [name for name in schedule.blocks() if name.startswith("fill")]
    for name in dict.fromkeys([*fills, "root", write]):
        _bind_warps(schedule, name)
    schedule.tensorize("root", NVGPU_MMA_TF32 if kind == "f32" else NVGPU_MMA, target)
    return schedule


def product_form(kernel: Kernel, *, tf32: bool = False) -> tuple[str, int, int, int, int] | None:
    """Element type of the factors, batch, m, n and k; ``None`` if it is no such product."""
    if kernel.kind != "contraction" or not kernel.is_static or not is_row_major(kernel.root):
        return None
    left, right, result = (str(element_type(value)) for value in kernel.root.operands)
    if left != right or result != "f32" or left not in DEPTHS or (left == "f32" and not tf32):
        return None
    *batch, m, n, k = kernel.loops
    return left, batch[0] if batch else 1, m, n, k


def best_block(
    blocks: tuple[tuple[int, int], ...], m: int, n: int, batch: int, target: Target
) -> tuple[int, int] | None:
    """Of the blocks that fit the first that gives each multiprocessor one; else the smallest."""
    fitting = [(rows, columns) for rows, columns in blocks if rows <= m and columns <= n]
    if not fitting or batch > MOST_BLOCKS:
        return None
    busy = [b for b in fitting if batch * -(-m // b[0]) * -(-n // b[1]) >= target.cores]
    return (busy or fitting[-1:])[0]


def _bind_warps(schedule: Schedule, block: str) -> None:
    """Give each warp its part of the tile that the block computes; thread.x are its lanes."""
    inside = [loop for loop in schedule.loops(block) if loop.op is None]
    rows, columns = [loop for loop in inside if loop.kind == "parallel"][-2:]
    for loop, most, axis in ((rows, WARP[0], "thread.z"), (columns, WARP[1], "thread.y")):
        outer, _ = schedule.split(loop, [None, min(most, loop.extent)])
        schedule.bind(outer, axis)
