"""Convolutions with channels last: a matrix product for each position of the window."""

from __future__ import annotations

import math

from mlcflow.graph.kernel import Kernel
from mlcflow.graph.panels import is_prepared
from mlcflow.graph.window import Window, read_window
from mlcflow.mlir import ir
from mlcflow.pipelines.schedules.border import fill_border
from mlcflow.pipelines.schedules.threads import run_in_threads
from mlcflow.pipelines.schedules.tiles import divisor, register_tile
from mlcflow.pipelines.schedules.window import LANE_BITS, follows
from mlcflow.schedule.schedule import Schedule
from mlcflow.target import Target

REDUCTION_TILE = 4  # measured: 2 spills more, 8 brings nothing
FEW_PIXELS = 4  # of an image of 3 channels; measured: 13 spill, 8 take 10 % longer


def rule(kernel: Kernel, target: Target) -> Schedule | None:
    """``R[n, y, x, f] += I[n, y*sy + r, x*sx + s, c] * W[r, s, c, f]`` with its epilogue.

    Some pixels of a row by two vectors of output channels stay in registers over all of the
    window and all input channels: outer products of pixels and a row of weights. The weights
    for these channels are a panel, copied ahead of the loops (for parameters in ``@prepare``),
    which all pixels read while it is in cache. The epilogue works on the accumulators before
    the only store. Applies to one floating-point type, any strides and dilations, groups, and
    to 1x1 convolutions, which have no window loops.
    """
    window = read_window(kernel.root)
    if window is None or not window.mixes or not follows(kernel, window):
        return None
    types = kernel.element_types
    if len(types) != 1 or not types <= set(LANE_BITS):
        return None
    if window.channel < 2 and kernel.kind == "contraction":  # one matrix by another
        return None
    bits = LANE_BITS[types.pop()]
    lanes = target.lanes(bits)
    sizes = _tile(kernel, window, target, lanes)
    # All weights stay in the first cache: nothing to copy, and pixels are written in order.
    weights = math.prod(ir.ShapedType(kernel.root.operands[1].type).shape) * bits // 8
    is_small = weights <= target.caches[0] // 2 and not window.is_turned
    packs = kernel.loops[window.channel] > sizes[window.channel] and _packs(kernel, window)
    packs = packs and not is_small
    if window.is_turned and not packs:
        return None
    schedule = Schedule(kernel)
    fill_border(schedule, lanes)
    # A panel of weights stays in cache while all pixels pass by.
    pixels = range(window.channel)
    order = [*pixels, window.channel] if is_small else [window.channel, *pixels]
    loops = schedule.tile_and_fuse(schedule.final, sizes, order=order, overlap=True)
    run_in_threads(schedule, [loops[number] for number in order], target)
    if packs:
        _copy_panels(schedule, str(loops[window.channel]), window, lanes)
    *windows, into = [loop for loop in schedule.loops("root") if loop.kind == "reduction"]
    for loop in windows:
        schedule.split(loop, [None, 1])
    schedule.split(into, [None, divisor(into.extent, REDUCTION_TILE)])
    schedule.drop_unit_loops()
    schedule.vectorize()
    schedule.hoist()
    return schedule


def _tile(kernel: Kernel, window: Window, target: Target, lanes: int) -> list[int]:
    """Some pixels of a row by some channels; one of all other loops of the result."""
    sizes = [1] * (window.channel + 1)
    sizes[window.row], sizes[window.channel] = register_tile(
        kernel.loops[window.row],
        kernel.loops[window.channel],
        lanes,
        target.vector_registers,
        target.vector_bits // 8,
        FEW_PIXELS if kernel.loops[-1] < REDUCTION_TILE else kernel.loops[window.row],
    )
    return sizes


def _copy_panels(schedule: Schedule, loop: str, window: Window, lanes: int) -> None:
    """Copy the weights for the channels of an iteration of ``loop``, turned if need be."""
    turn = window.weights if window.is_turned else ()
    copy = schedule.cache_read("root", 1, panels=loop, permutation=turn)
    *outer, depth, width = [each for each in schedule.loops(copy) if each.op is None]
    # Squares, of which each line of memory is read and written as a whole.
    tile = lanes if window.is_turned else REDUCTION_TILE
    sizes = [*[1] * len(outer), divisor(depth.extent, tile)]
    schedule.tile(copy, [*sizes, *([divisor(width.extent, lanes)] if window.is_turned else [])])


def _packs(kernel: Kernel, window: Window) -> bool:
    """Whether weights are the same at every call, or enough pixels read them again.

    With groups, panels would have to follow two loops; a group's weights lie together anyway.
    """
    grouped = window.row < window.channel - 1
    return not grouped and (is_prepared(kernel, 1) or max(kernel.loops[: window.channel]) >= 16)
