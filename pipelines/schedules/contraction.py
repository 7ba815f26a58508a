"""Matrix products: a tile of the result stays in registers over the whole reduction."""

from __future__ import annotations

from mlcflow.graph.choices import loops_that_choose
from mlcflow.graph.kernel import Kernel, loop_extents
from mlcflow.graph.linalg_ops import indexing_maps
from mlcflow.graph.panels import is_prepared
from mlcflow.graph.same_operation import element_type
from mlcflow.mlir import ir
from mlcflow.pipelines.schedules.threads import run_in_threads
from mlcflow.pipelines.schedules.tiles import divisor, register_tile, rows_in_cache
from mlcflow.schedule.dot import X86_DOT
from mlcflow.schedule.schedule import Schedule
from mlcflow.target import Target

LANE_BITS = {"f32": 32, "f64": 64}
FLOATS = {"f16", "bf16", *LANE_BITS}
REUSES = 8  # a panel of B is copied if at least so many tiles of rows read it
REDUCTION_TILE = 4  # measured: 8 spills, 2 reloads the rows of A too often


def rule(kernel: Kernel, target: Target) -> Schedule | None:
    """``C[b, m, n] += A[b, m, k] * B[b, k, n]`` with its epilogue.

    ``b`` may be missing (one matrix), ``m`` as well (a row times a matrix). A tile of the result
    is accumulated as outer products of a column of A and a row of B. The epilogue works on the
    accumulators before the only store. Applies to static shapes of one floating-point type; the
    epilogue may convert to and from others.
    """
    if kernel.kind != "contraction" or not kernel.is_static or not kernel.element_types <= FLOATS:
        return None
    kinds = {str(element_type(value)) for value in kernel.root.operands}
    if len(kinds) != 1 or not kinds <= set(LANE_BITS):
        return None
    if any(loops_that_choose(op, loop_extents(op)) for op in kernel.blocks):
        return None  # transforms around a product
    return product(kernel, target, LANE_BITS[kinds.pop()])


def product(kernel: Kernel, target: Target, lane_bits: int, width: int = 1) -> Schedule | None:
    """The schedule of :func:`rule` for accumulators of ``lane_bits``.

    ``width``: elements along k that one instruction multiplies and adds, by ``x86.dot`` if
    there are several.
    """
    form = _form(kernel.root)
    if form is None:
        return None
    batch, rows, is_turned = form
    m = kernel.loops[batch] if rows else 1
    *_, n, k = kernel.loops
    lanes = target.lanes(lane_bits)
    row_bytes = k * element_type(kernel.root.operands[0]).width // 8
    most_rows = rows_in_cache(row_bytes, target.caches[0])
    mi, ni = register_tile(m, n, lanes, target.vector_registers, target.vector_bits // 8, most_rows)
    most = REDUCTION_TILE * width
    ki = k if k < 2 * most else divisor(k, most, prefer=width)
    if is_turned and n <= ni:
        return None
    # Rows of B lie a whole row of the matrix apart: copied next to each other, a panel takes
    # few pages and cache sets, and is read in order. That of a parameter is made only once, but
    # one in a loop over matrices at each call: 49 rows times 128x128 take 20 % longer with it.
    is_packed = is_turned or (is_prepared(kernel, 1) and not batch) or m // mi >= REUSES
    schedule = Schedule(kernel)
    # A panel of B stays in cache while all rows of A pass by: columns outside, rows inside.
    sizes = [*[1] * batch, *[mi] * rows, ni]
    order = [*range(batch), batch + rows, *range(batch, batch + rows)]
    loops = schedule.tile_and_fuse(schedule.final, sizes, order=order, overlap=True)
    columns = loops[-1]
    run_in_threads(schedule, [loops[dim] for dim in order], target)
    if is_packed and not columns.is_gone:
        _copy_panels(schedule, f"root.{columns.name}", batch, is_turned, (ki, lanes), target)
    schedule.split(schedule.loops("root")[-1], [None, ki])
    if batch:
        schedule.drop_unit_loops()
    if width > 1:
        schedule.tensorize("root", X86_DOT, target)
    if schedule.blocks():
        schedule.vectorize()
    schedule.hoist()
    return schedule


def _copy_panels(
    schedule: Schedule,
    columns: str,
    batch: int,
    is_turned: bool,
    tile: tuple[int, int],
    target: Target,
) -> None:
    """Copy the columns of B that an iteration of the loop ``columns`` reads, turned if need be."""
    turn = [*range(batch), batch + 1, batch] if is_turned else ()
    panel = schedule.cache_read("root", 1, panels=columns, permutation=turn)
    run_in_threads(schedule, [schedule.loops(panel)[batch]], target)
    *_, depth, width = schedule.loops(panel)
    if is_turned:
        # Squares, of which each line of memory is read and written as a whole.
        schedule.split(depth, [None, divisor(depth.extent, tile[1])])
        schedule.split(width, [None, divisor(width.extent, tile[1])])
    else:
        schedule.split(depth, [None, divisor(depth.extent, tile[0])])


def _form(root: ir.OpView) -> tuple[int, int, bool] | None:
    """How many batch loops and row loops there are, one or none of each; and whether B is turned.

    ``None`` if the operands are not A[.., m, k], B[.., k, n] (turned: B[.., n, k]) and
    C[.., m, n], loops in the order b, m, n, k.
    """
    maps = indexing_maps(root)
    if len(maps) != 3 or maps[0].n_dims not in (2, 3, 4):
        return None
    *outer, n, k = (ir.AffineExpr.get_dim(i) for i in range(maps[0].n_dims))
    batch, rows = outer[:-1], outer[-1:]
    left, right, result = (list(each.results) for each in maps)
    if left != [*batch, *rows, k] or result != [*batch, *rows, n]:
        return None
    if right not in ([*batch, k, n], [*batch, n, k]):
        return None
    return len(batch), len(rows), right == [*batch, n, k]
