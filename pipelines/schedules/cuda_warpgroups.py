"""Matrix products by the warpgroups of a GPU (sm_90a)."""

from __future__ import annotations

from mlcflow.gpu.mma_form import ROWS, WGMMA, WGMMA_CHIPS
from mlcflow.gpu.tensor_copies import TMA
from mlcflow.graph.kernel import Kernel
from mlcflow.mlir import ir
from mlcflow.pipelines.schedules.cuda_contraction import bind_tiles, tile_product
from mlcflow.pipelines.schedules.cuda_tensor_cores import best_block, product_form
from mlcflow.schedule.schedule import Schedule
from mlcflow.target import Target

BLOCKS = ((128, 256), (128, 128), (64, 256), (64, 128), (64, 64))
"""Rows and columns of the result that a block computes, the best for large matrices first. Four
warps keep 64 rows in registers: up to 128 sums a thread."""
DEPTHS = (64, 32)
"""Steps of the reduction in a tile: rows of A of 128 bytes, or of 64."""
STAGES = 4
"""Tiles of each operand in shared memory, at most: one that is multiplied, three on their way."""
RESERVED = 1 << 10
"""Bytes of shared memory that the chip takes for each block."""


def rule(kernel: Kernel, target: Target) -> Schedule | None:
    """``C[b, m, n] += A[b, m, k] * B[b, k, n]`` of f16 or bf16 into f32, with its epilogue.

    Tiles of A and B come to shared memory, copied by the chip where A and B are arrays of the
    kernel; there warpgroups read them. Each warp has 16 rows of the result in registers over all
    of ``k``. Applies where there are 64 rows, 64 columns, and 32 divides ``k``.
    """
    form = product_form(kernel) if target.chip in WGMMA_CHIPS else None
    if form is None:
        return None
    _, batch, m, n, k = form
    depth = next((d for d in DEPTHS if k % d == 0), 0)
    block = best_block(BLOCKS, m, n, batch, target)
    if not depth or n % 8 or block is None:
        return None
    arrays = all(isinstance(value.owner, ir.Block) for value in kernel.root.operands[:2])
    schedule = Schedule(kernel)
    blocks, write = tile_product(schedule, kernel, block, depth)
    stages = str(_stages(block, depth, target))
    for operand in (0, 1):
        copy = schedule.cache_read("root", operand)
        schedule.annotate(copy, "stages", stages)
        if arrays:
            schedule.annotate(copy, "by", TMA)
    bind_tiles(schedule, blocks)
    fills = [name for name in schedule.blocks() if name.startswith("fill")]
    for name in dict.fromkeys([*fills, "root", write]):
        inside = [loop for loop in schedule.loops(name) if loop.op is None]
        rows = [loop for loop in inside if loop.kind == "parallel"][-2]
        outer, _ = schedule.split(rows, [None, ROWS])
        schedule.bind(outer, "thread.y")
    schedule.tensorize("root", WGMMA, target)
    return schedule


def _stages(block: tuple[int, int], depth: int, target: Target) -> int:
    """As many as there is memory for. Of all blocks but the largest two fit on a multiprocessor,
    of which one begins or ends while the other multiplies.
    """
    blocks = 1 if block == BLOCKS[0] else 2
    memory = (target.caches[0] + RESERVED) // blocks - RESERVED
    tiles = sum(block) * depth * 2
    return max(2, min(STAGES, memory // tiles))
