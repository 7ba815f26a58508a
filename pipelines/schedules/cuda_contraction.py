"""Matrix products on a GPU: tiles of the operands in shared memory, of the result in registers."""

from __future__ import annotations

from mlcflow.graph.kernel import Kernel
from mlcflow.graph.linalg_ops import indexing_maps
from mlcflow.mlir import ir
from mlcflow.pipelines.schedules.tiles import divisor
from mlcflow.schedule.labels import Loop
from mlcflow.schedule.schedule import Schedule
from mlcflow.target import Target

TYPES = ("f32", "f64")
LARGEST = {"f32": 128, "f64": 64}
"""Rows and columns of the result that a block computes, at most: of 128 each thread 8."""
BLOCK = 64
"""Rows and columns of which each thread computes 4."""
LEAST = 32
"""Rows and columns of a block at which it stays, even where there are few."""
DEPTH = 16
"""Steps of the reduction for which the tiles of the operands are in shared memory."""
MOST_BLOCKS = 65535
"""Blocks of a grid along y and z."""
TOGETHER = 16
"""Tiles of the result below each other whose blocks start together, at most."""
STAGES = 3
"""Tiles of each operand in shared memory: one in use, two on their way."""
STEP = 4
"""Steps that a thread does at once: 16 bytes of a row of A."""


def rule(kernel: Kernel, target: Target) -> Schedule | None:
    """``C[b, m, n] += A[b, m, k] * B[b, k, n]`` with its epilogue; ``b`` may be missing.

    A block copies tiles of A and B to shared memory, part by part of ``k``, ahead of their use
    where rows are whole 16 bytes; a thread keeps a tile of up to 8 x 8 results in registers over
    all of ``k``. Applies to static shapes of one
    floating-point type with at least 16 rows and columns.
    """
    if kernel.kind != "contraction" or not kernel.is_static or not is_row_major(kernel.root):
        return None
    *batch, m, n, k = kernel.loops
    depth = divisor(k, DEPTH)
    if len(kernel.element_types) != 1 or not kernel.element_types <= set(TYPES):
        return None
    if min(m, n) < 16 or depth < 4 or (batch and batch[0] > MOST_BLOCKS):
        return None
    most = min(LARGEST[name] for name in kernel.element_types)
    rows, columns = _block((m, n), batch[0] if batch else 1, most, target)
    lanes = target.lanes(64 if "f64" in kernel.element_types else 32)
    schedule = Schedule(kernel)
    blocks, write = tile_product(schedule, kernel, (rows, columns), depth)
    copies = [schedule.cache_read("root", operand) for operand in (0, 1)]
    if not any(size % lanes for size in (depth, k, n, columns)):  # rows of whole 16 bytes
        for copy in copies:
            schedule.annotate(copy, "stages", str(STAGES))
    bind_tiles(schedule, blocks)
    for block in dict.fromkeys([*_fills(schedule), "root", write]):
        _bind_threads(schedule, block)
    step = schedule.loops("root")[-1]
    schedule.split(step, [None, STEP if depth % STEP == 0 else 1])
    schedule.vectorize("root")
    return schedule


def tile_product(
    schedule: Schedule, kernel: Kernel, block: tuple[int, int], depth: int
) -> tuple[list[Loop], str]:
    """Cut a product into tiles of the result, and its reduction into parts of ``depth`` steps.

    Gives the loops over the tiles, that of a batch first, and the block that writes the result.
    """
    batch = kernel.loops[:-3]
    tiles = [*[1 for _ in batch], *block]
    blocks = schedule.tile_and_fuse(schedule.final, tiles, overlap=True)
    if batch:
        schedule.drop_unit_loops()
    # With an epilogue, which writes the result, the product has memory of its own anyway.
    write = schedule.cache_write("root") if schedule.final == "root" else schedule.final
    schedule.split(schedule.loops("root")[-1], [None, depth])
    return blocks, write


def bind_tiles(schedule: Schedule, loops: list[Loop]) -> None:
    """Bind loops over tiles of a product to blocks; the last two are rows and columns.

    Without a batch some tiles below each other come first, then those next to them, so that what
    runs at once shares rows of A and columns of B in the cache of all.
    """
    *batch, rows, columns = loops
    if rows.is_gone or columns.is_gone or any(not loop.is_gone for loop in batch):
        bind_blocks(schedule, loops)
        return
    groups, below = schedule.split(rows, [None, divisor(rows.extent, TOGETHER)])
    bind_blocks(schedule, [groups, columns, below])


def bind_blocks(schedule: Schedule, loops: list[Loop]) -> None:
    """Bind loops to blocks, the innermost to the axis x, along which they start first.

    The other axes have up to ``MOST_BLOCKS``, so one that is longer gets x.
    """
    kept = [loop for loop in reversed(loops) if not loop.is_gone]
    kept.sort(key=lambda loop: loop.extent <= MOST_BLOCKS)
    for loop, axis in zip(kept, ("block.x", "block.y", "block.z"), strict=False):
        schedule.bind(loop, axis)


def _block(shape: tuple[int, int], batch: int, most: int, target: Target) -> tuple[int, int]:
    """The largest powers of two up to ``most`` that fit; smaller ones, down to ``LEAST``, where
    multiprocessors would have nothing to do.
    """
    m, n = shape
    rows, columns = (min(most, 1 << (extent.bit_length() - 1)) for extent in shape)
    while max(rows, columns) > LEAST and batch * -(-m // rows) * -(-n // columns) < target.cores:
        rows, columns = (rows // 2, columns) if rows >= columns else (rows, columns // 2)
    return rows, columns


def _fills(schedule: Schedule) -> list[str]:
    return [name for name in schedule.blocks() if name.startswith("fill")]


def _bind_threads(schedule: Schedule, block: str) -> None:
    """Give each thread 4 x 4 elements of the tile that the block computes, of a large one 8 x 8."""
    inside = [loop for loop in schedule.loops(block) if loop.op is None]
    rows, columns = [loop for loop in inside if loop.kind == "parallel"][-2:]
    for loop, axis in ((rows, "thread.y"), (columns, "thread.x")):
        own = 4 if loop.extent <= BLOCK else 8
        outer, _ = schedule.split(loop, [None, divisor(loop.extent, own)])
        schedule.bind(outer, axis)


def is_row_major(root: ir.OpView) -> bool:
    """Whether the operands are A[.., m, k], B[.., k, n] and C[.., m, n], loops in that order."""
    maps = indexing_maps(root)
    if len(maps) != 3 or maps[0].n_dims not in (3, 4):
        return False
    *batch, m, n, k = (ir.AffineExpr.get_dim(i) for i in range(maps[0].n_dims))
    expected = ([*batch, m, k], [*batch, k, n], [*batch, m, n])
    return all(list(got.results) == want for got, want in zip(maps, expected, strict=True))
