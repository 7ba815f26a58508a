"""Poolings and depthwise convolutions with channels last: vectors of channels."""

from __future__ import annotations

from mlcflow.graph.kernel import Kernel
from mlcflow.graph.linalg_ops import captured, indexing_maps, is_elementwise, is_fill, payload
from mlcflow.graph.window import Window, read_window
from mlcflow.mlir import ir
from mlcflow.pipelines.schedules.border import fill_border
from mlcflow.pipelines.schedules.threads import run_in_threads
from mlcflow.schedule.schedule import Schedule
from mlcflow.schedule.vectors import SCALAR_ONLY
from mlcflow.target import Target

LANE_BITS = {"f32": 32, "f64": 64}
UNROLLED = 32  # positions of a window that are written out; a longer one stays a loop


def rule(kernel: Kernel, target: Target) -> Schedule | None:
    """``R[n, y, x, c] = combine over r, s of I[n, y*sy + r, x*sx + s, c]`` with its epilogue.

    With ``W[r, s, c]`` as a factor it is a depthwise convolution, or one of an image that has a
    single channel. Some pixels of a row by one or two vectors of channels stay in registers
    over the whole window.
    """
    window = read_window(kernel.root)
    if window is None or window.mixes or window.is_turned or not follows(kernel, window):
        return None
    types = kernel.element_types
    if len(types) != 1 or not types <= set(LANE_BITS) or not _computes(kernel.root):
        return None
    lanes = target.lanes(LANE_BITS[types.pop()])
    channels = channel_tile(kernel.loops[window.channel], lanes)
    vectors = -(-channels // lanes)
    sizes = [1] * (window.channel + 1)
    # Each position of the window is a row of weights, which the pixels share.
    sizes[window.row] = position_tile(
        kernel.loops[window.row], target.vector_registers // 4 // vectors
    )
    sizes[window.channel] = channels
    schedule = Schedule(kernel)
    fill_border(schedule, lanes)
    loops = schedule.tile_and_fuse(schedule.final, sizes, overlap=True)
    run_in_threads(schedule, loops, target)
    positions = [loop for loop in schedule.loops("root") if loop.kind == "reduction"]
    for loop in positions:
        schedule.split(loop, [None, 1])
    schedule.drop_unit_loops()
    schedule.vectorize()
    schedule.hoist()
    return schedule


def follows(kernel: Kernel, window: Window) -> bool:
    """Whether the other blocks are an epilogue that reads vectors along the channels."""
    if kernel.kind == "other" or window.channel < 1:
        return False
    others = [op for op in kernel.blocks if op != kernel.root and not is_fill(op)]
    return all(is_elementwise(op) and _computes(op) and _reads_rows(op) for op in others)


def _computes(op: ir.OpView) -> bool:
    """Whether vectors can do what an iteration does."""
    if any(isinstance(value.type, ir.ShapedType) for value in captured(op)):
        return False
    names = [inner.operation.name for inner in payload(op)]
    return all(n.startswith(("arith.", "math.")) and n not in SCALAR_ONLY for n in names)


def _reads_rows(op: ir.OpView) -> bool:
    """Whether each operand is contiguous along the innermost loop, or does not move with it."""
    innermost = indexing_maps(op)[0].n_dims - 1
    for affine_map in indexing_maps(op):
        results = list(affine_map.results)
        if not all(isinstance(e, ir.AffineDimExpr | ir.AffineConstantExpr) for e in results):
            return False
        loops = [e.position for e in results if isinstance(e, ir.AffineDimExpr)]
        if innermost in loops[:-1] or len(set(loops)) != len(loops):
            return False
        if innermost in loops and not isinstance(results[-1], ir.AffineDimExpr):
            return False
    return True


def channel_tile(extent: int, lanes: int) -> int:
    """Channels to keep in registers at once: two vectors, one, or a part of one.

    Where they do not divide, tiles overlap; two vectors only if that repeats little.

    >>> [channel_tile(extent, 16) for extent in (64, 96, 144, 48, 24, 10, 3)]
    [32, 32, 16, 16, 16, 8, 2]
    """
    for size in (2 * lanes, lanes):
        tiles = -(-extent // size)
        if extent >= size and tiles * size <= 1.1 * extent:
            return size
    return lanes if extent >= lanes else 1 << (extent.bit_length() - 1)


def position_tile(extent: int, most: int) -> int:
    """Positions of a row to work on at once: at most ``most``, and few of them twice.

    >>> [position_tile(extent, 14) for extent in (56, 28, 112, 7, 13, 17, 224)]
    [14, 14, 14, 7, 13, 9, 14]
    """
    sizes = range(min(extent, most), 0, -1)
    return min(sizes, key=lambda size: (-(-extent // size) * (size + 1), -size))
