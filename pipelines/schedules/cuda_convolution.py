"""Convolutions on a GPU: products of matrices whose rows are pixels, gathered tile by tile."""

from __future__ import annotations

import math

from mlcflow.errors import ScheduleError
from mlcflow.gpu.memory import SHARED_BYTES
from mlcflow.gpu.mma_form import DEPTHS, NVGPU_MMA, NVGPU_MMA_TF32, ROWS
from mlcflow.graph.kernel import Kernel
from mlcflow.graph.linalg_ops import is_fill
from mlcflow.graph.same_operation import element_type
from mlcflow.graph.window import Window, read_window
from mlcflow.mlir import ir, tensor
from mlcflow.pipelines.schedules.cuda_contraction import (
    BLOCK,
    DEPTH,
    MOST_BLOCKS,
    STAGES,
    STEP,
    TYPES,
)
from mlcflow.pipelines.schedules.cuda_tensor_cores import WARP
from mlcflow.pipelines.schedules.tiles import divisor
from mlcflow.pipelines.schedules.window import follows
from mlcflow.schedule.labels import Loop
from mlcflow.schedule.schedule import Schedule
from mlcflow.target import Target

HALF = ("f16", "bf16")
BITS = {"f16": 16, "bf16": 16, "f32": 32, "f64": 64}
ROW = 32
"""Pixels of a row that a block computes, where there are so many."""
GRID = ("block.x", "block.y", "block.z")
AXES = ("thread.x", "thread.y", "thread.z")


def rule(kernel: Kernel, target: Target, *, tf32: bool = False) -> Schedule | None:
    """``R[n, y, x, f] += I[n, y*sy + r, x*sx + s, c] * W[r, s, c, f]`` with its epilogue.

    A block computes up to 64 pixels of some rows by 64 channels. For each position of the window
    and each part of the input channels it copies what these pixels read, and the weights, to
    shared memory, ahead of their use where channels are whole 16 bytes; no pixel is copied
    together with its neighbours to anywhere else. A thread keeps up to 4 x 4 results in
    registers. Applies to f32, f64, f16 and bf16 (into f32), any strides and dilations, and 1x1, but
    not to groups. f16 and bf16, and with ``tf32`` f32, go to tensor cores, a warp 16 to 64 pixels
    by 32 channels, where sizes suit; what is 16 bits wide and does not suit is left to others.
    """
    window = read_window(kernel.root, wide=True)
    if window is None or not _suits(kernel, window):
        return None
    channels, into = kernel.loops[window.channel], kernel.loops[-1]
    kind, sizes = str(element_type(kernel.root.operands[0])), _tile(kernel, window)
    lanes = target.lanes(BITS[kind])
    depth = divisor(into, DEPTH if kind not in HALF else DEPTH * 2)
    intrinsic = NVGPU_MMA if kind in HALF else NVGPU_MMA_TF32 if tf32 and kind == "f32" else ""
    by_warps = bool(intrinsic) and _suits_tensor_cores(sizes, depth, kind)
    if kind in HALF and not by_warps:
        return None
    schedule = Schedule(kernel)
    blocks = schedule.tile_and_fuse(schedule.final, sizes, overlap=True)
    write = schedule.cache_write("root") if schedule.final == "root" else schedule.final
    *windows, _ = [loop for loop in schedule.loops("root") if loop.kind == "reduction"]
    around = [schedule.split(loop, [None, 1])[0] for loop in windows]
    around += [schedule.split(schedule.loops("root")[-1], [None, depth])[0]]
    schedule.drop_unit_loops()
    _join(schedule, around)
    copies = [schedule.cache_read("root", operand) for operand in (0, 1)]
    _bind_blocks(schedule, blocks)
    fills = [name for name in schedule.blocks() if _is_start(schedule.block(name))]
    for block in dict.fromkeys([*fills, "root", write]):
        (_bind_warps if by_warps else _bind_threads)(schedule, block)
    if not any(size % lanes for size in (depth, into, channels, sizes[-1])):
        tiles = [
            math.prod(loop.extent for loop in schedule.loops(c) if loop.op is None) for c in copies
        ]
        fitting = SHARED_BYTES // (sum(tiles) * 16 // lanes)  # strides read more of the image
        for copy in copies if fitting > 1 else ():
            schedule.annotate(copy, "stages", str(min(STAGES, fitting)))
    if by_warps:
        schedule.tensorize("root", intrinsic, target)
        return schedule
    schedule.split(schedule.loops("root")[-1], [None, STEP if depth % STEP == 0 else 1])
    schedule.drop_unit_loops()
    schedule.vectorize("root")
    return schedule


def _is_start(op: ir.OpView) -> bool:
    """Whether ``op`` fills what a product adds to, and not the border of a padded image."""
    users = [use.owner.opview for result in op.results for use in result.uses]
    return is_fill(op) and not all(isinstance(user, tensor.InsertSliceOp) for user in users)


def _suits(kernel: Kernel, window: Window) -> bool:
    if not window.mixes or window.is_turned or not follows(kernel, window):
        return False
    kinds = [str(element_type(value)) for value in kernel.root.operands]
    is_one = len(kernel.element_types) == 1 and kinds[0] in TYPES
    if not is_one and (kinds[0] not in HALF or kinds != [kinds[0], kinds[0], "f32"]):
        return False
    if window.channel < 2 or window.row < window.channel - 1:  # a matrix; groups
        return False
    return kernel.loops[window.channel] >= STEP and max(kernel.loops[:-1]) <= MOST_BLOCKS


def _suits_tensor_cores(sizes: list[int], depth: int, kind: str) -> bool:
    """Whether tiles are whole instructions."""
    pixels, channels = sizes[-3] * sizes[-2] if len(sizes) > 2 else sizes[-2], sizes[-1]
    return pixels % ROWS == 0 and channels % WARP[1] == 0 and depth % DEPTHS[kind] == 0


def _bind_warps(schedule: Schedule, block: str) -> None:
    """Give each warp up to 32 pixels, whole rows of them, by 32 channels of the tile."""
    inside = [loop for loop in schedule.loops(block) if loop.op is None]
    *above, row, channel = [loop for loop in inside if loop.kind == "parallel"]
    if above and above[-1].extent > 1:
        rows, _ = schedule.split(
            above[-1], [None, max(1, min(above[-1].extent, ROW // row.extent))]
        )
        schedule.bind(rows, "thread.z")
    outer, _ = schedule.split(channel, [None, WARP[1]])
    schedule.bind(outer, "thread.y")


def _tile(kernel: Kernel, window: Window) -> list[int]:
    """For each loop of the result how much of it a block computes: powers of two."""
    sizes = [1] * (window.channel + 1)
    sizes[window.row] = _power(kernel.loops[window.row], ROW)
    if window.row > 0:  # rows of an image, or images
        above = kernel.loops[window.row - 1]
        sizes[window.row - 1] = _power(above, BLOCK // sizes[window.row])
    sizes[window.channel] = _power(kernel.loops[window.channel], BLOCK)
    return sizes


def _power(extent: int, most: int) -> int:
    """The largest power of two that is neither above ``extent`` nor above ``most``."""
    return 1 << (min(extent, most).bit_length() - 1)


def _join(schedule: Schedule, loops: list[Loop]) -> None:
    """Make one loop of those over the window and the input channels, so that copies need not wait
    at the end of each.
    """
    left = [loop for loop in (schedule.loop(loop) for loop in loops) if not loop.is_gone]
    while len(left) > 1:
        try:
            left[-2:] = [schedule.fuse(left[-2], left[-1])]
        except ScheduleError:
            return


def _bind_blocks(schedule: Schedule, loops: list[Loop]) -> None:
    """The innermost loop along x, which is that of channels where there are several tiles."""
    kept = [loop for loop in loops if not schedule.loop(loop).is_gone]
    while len(kept) > len(GRID):
        try:
            kept[-3:-1] = [schedule.fuse(kept[-3], kept[-2])]
        except ScheduleError:
            break
    for loop, axis in zip(reversed(kept), GRID, strict=False):
        schedule.bind(loop, axis)


def _bind_threads(schedule: Schedule, block: str) -> None:
    """Give each thread 4 x 4 of the pixels of a row and the channels of the tile."""
    inside = [loop for loop in schedule.loops(block) if loop.op is None]
    parallel = [loop for loop in inside if loop.kind == "parallel"]
    for loop, axis in zip(reversed(parallel), AXES, strict=False):
        most = 1 if axis == "thread.z" else 4
        outer, _ = schedule.split(loop, [None, divisor(loop.extent, most)])
        schedule.bind(outer, axis)
