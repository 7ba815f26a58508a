"""Transforms of tiles, as of Winograd's filtering: all of a tile from one set of registers."""

from __future__ import annotations

from mlcflow.graph.choices import loops_that_choose
from mlcflow.graph.kernel import Kernel, loop_extents
from mlcflow.mlir import scf
from mlcflow.pipelines.schedules.elementwise import LANE_BITS
from mlcflow.pipelines.schedules.threads import run_in_threads
from mlcflow.pipelines.schedules.tiles import divisor, register_tile
from mlcflow.schedule.labels import Loop
from mlcflow.schedule.schedule import Schedule
from mlcflow.target import Target

DEPTH = 4
"""Steps along the sum at once, as for other products."""


def rule(kernel: Kernel, target: Target) -> Schedule | None:
    """Write out the loops whose position says what to compute, a vector of channels at a time.

    What is written out has no choices left, and reads each element and computes each sum that
    several results need once. Applies to one elementwise operation of static shape; and to two
    of them around products of matrices, in loops over blocks of tiles, which run in threads.
    """
    types, last = kernel.element_types, len(kernel.loops) - 1
    if not kernel.is_static or not types <= set(LANE_BITS):
        return None
    schedule = Schedule(kernel)
    lanes = target.lanes(max(LANE_BITS[each] for each in types))
    transforms = {name: chosen for name in schedule.blocks() if (chosen := _chosen(schedule, name))}
    is_blocked = isinstance(kernel.root.operation.parent.opview, scf.ForOp)
    if is_blocked and (kernel.kind != "contraction" or len(transforms) != 2):
        return None
    if not is_blocked and (
        kernel.blocks != (kernel.root,) or last in transforms.get("root", [last])
    ):
        return None
    for name, chosen in transforms.items():
        loops = _write_out(schedule, name, chosen, lanes)
        if not is_blocked:
            run_in_threads(schedule, loops, target)
    if is_blocked:
        _tile_product(schedule, target, lanes)
    for name, chosen in transforms.items():
        for loop in reversed(
            schedule.tile(name, [int(n in chosen) for n in range(chosen[-1] + 1)])
        ):
            schedule.unroll(loop)
    schedule.drop_unit_loops()
    schedule.vectorize()
    schedule.hoist()
    return schedule


def _chosen(schedule: Schedule, block: str) -> list[int]:
    op = schedule.block(block)
    return loops_that_choose(op, loop_extents(op))


def _write_out(schedule: Schedule, block: str, chosen: list[int], lanes: int) -> list[Loop]:
    """Tile ``block`` by vectors of whole tiles; gives the loops."""
    *outer, channels = loop_extents(schedule.block(block))
    sizes = [extent if n in chosen else 1 for n, extent in enumerate(outer)]
    loops = schedule.tile_and_fuse(block, [*sizes, min(lanes, channels)], overlap=True)
    return [loop for n, loop in enumerate(loops) if n not in chosen]


def _tile_product(schedule: Schedule, target: Target, lanes: int) -> None:
    """The products of a block of tiles: all its rows by the same columns of a filter."""
    _, m, n, k = loop_extents(schedule.block("root"))
    mi, ni = register_tile(m, n, lanes, target.vector_registers, target.vector_bits // 8)
    schedule.tile_and_fuse("root", [1, mi, ni], order=[0, 2, 1], overlap=True)
    schedule.split(schedule.loops("root")[-1], [None, divisor(k, DEPTH)])
