"""What the threads of one block do: who does which work, and where they wait for each other.

The body of a launch is a sequence of *units*, each of them done by the block as a whole:

- a nest of loops bound to threads: a thread does its own iteration;
- an ``scf.parallel``: the threads share its iterations;
- other work on memory: one thread does it.

Between two units of which one writes what the other reads or writes, the threads wait.
"""

from __future__ import annotations

import math
from functools import reduce

from mlcflow.errors import LoweringError
from mlcflow.gpu import hazards, memory
from mlcflow.gpu.axes import GLOBAL, LETTERS, THREADS, Grid, axis_of
from mlcflow.gpu.hazards import writes_memory
from mlcflow.gpu.loops import constant_index, dissolve, take_iteration, unrank
from mlcflow.gpu.reductions import find_reduction, share_reduction
from mlcflow.gpu.registers import give_tiles_to_threads
from mlcflow.mlir import arith, gpu, ir, memref, scf, walk
from mlcflow.schedule.labels import constant, trip_count


def shared_work(nest: ir.OpView) -> int:
    """Iterations of the widest loop that the threads of a block share."""
    widest = 1
    for op in walk(nest):
        if _is_in_thread(op, nest):
            continue
        if isinstance(op, scf.ParallelOp):
            widest = max(widest, math.prod(_extents(op)))
        elif find_reduction(op) is not None and _is_alone(op, nest):
            widest = max(widest, trip_count(op))
    return widest


def _is_alone(op: ir.OpView, nest: ir.OpView) -> bool:
    """Whether no parallel loop of several iterations lies around ``op``, up to ``nest``."""
    parent = op.operation
    while parent != nest.operation:
        parent = parent.parent
        loop = parent.opview
        if isinstance(loop, scf.ParallelOp) and math.prod(_extents(loop)) > 1:
            return False
    return True


def _take_single(body: ir.Block) -> None:
    """Replace the parallel loops of one iteration, other than those of a thread, by it."""
    for op in list(body.operations):
        if isinstance(op, scf.ParallelOp) and math.prod(_extents(op)) == 1:
            for value, low in zip(op.regions[0].blocks[0].arguments, op.lowerBound, strict=True):
                value.replace_all_uses_with(low)
            for inner in list(op.regions[0].blocks[0].operations)[:-1]:
                inner.operation.move_before(op.operation)
            op.operation.erase()
        elif not _is_of_thread(op) and not isinstance(op, scf.ParallelOp):
            for region in op.operation.regions:
                for inner_block in region.blocks:
                    _take_single(inner_block)


def _extents(loop: scf.ParallelOp) -> list[int]:
    found = []
    for low, high, step in zip(loop.lowerBound, loop.upperBound, loop.step, strict=True):
        first, last, by = (constant(value) for value in (low, high, step))
        if first is None or last is None or by is None:
            found.append(THREADS)
        else:
            found.append(-(-(last - first) // by))
    return found


def _is_in_thread(op: ir.OpView, nest: ir.OpView) -> bool:
    """Whether a loop bound to threads lies around ``op``, up to ``nest``."""
    parent = op.operation
    while parent != nest.operation:
        parent = parent.parent
        if parent != nest.operation and _is_of_thread(parent.opview):
            return True
    return nest != op and _is_of_thread(nest)


def _is_of_thread(op: ir.OpView) -> bool:
    return axis_of(op).startswith("thread") or axis_of(op) == GLOBAL


def lower(launch: gpu.LaunchOp, grid: Grid) -> None:
    """Turn the nest in the body of ``launch`` into what each thread does."""
    body = launch.regions[0].blocks[0]
    arguments = list(body.arguments)
    places = {f"block.{letter}": arguments[n] for n, letter in enumerate(LETTERS)}
    places |= {f"thread.{letter}": arguments[3 + n] for n, letter in enumerate(LETTERS)}
    sizes = {f"block.{letter}": grid.blocks[n] for n, letter in enumerate(LETTERS)}
    sizes |= {f"thread.{letter}": grid.threads[n] for n, letter in enumerate(LETTERS)}
    with ir.InsertionPoint.at_block_begin(body), launch.location:
        threads = constant_index(grid.threads[0])
        places[GLOBAL] = arith.addi(arith.muli(arguments[0], threads), arguments[3])
        sizes[GLOBAL] = grid.blocks[0] * grid.threads[0]
        number = _thread_number(arguments[3:6], grid)
    _take(body, "block", places, sizes)
    _take_single(body)
    shared = give_tiles_to_threads(launch, _of_the_block(body), sizes)
    if math.prod(grid.threads) > 1:
        hazards.insert_barriers(body, is_unit)
        memory.share(launch, shared)
    _share(body, number, math.prod(grid.threads))
    _leave_out(body, places, sizes)
    for op in [op for op in walk(launch) if _is_of_thread(op)]:
        _check_thread_nest(op)
    _take(body, "thread", places, sizes)
    _take(body, "global", places, sizes)


def _thread_number(ids: list[ir.Value], grid: Grid) -> ir.Value:
    """The number of the thread in its block, x fastest."""
    x, y, z = grid.threads
    if y * z == 1:
        return ids[0]
    above = arith.addi(arith.muli(ids[2], constant_index(y)), ids[1])
    return arith.addi(arith.muli(above, constant_index(x)), ids[0])


def _take(body: ir.Block, level: str, places: dict[str, ir.Value], sizes: dict[str, int]) -> None:
    """Replace the loops bound to the axes of ``level`` by one iteration each, outermost first."""
    for op in [inner for top in body.operations for inner in [top, *walk(top)]]:
        axis = axis_of(op)
        if axis.startswith(level):
            if len(op.results):
                raise LoweringError(f"a loop bound to {axis} carries values")
            take_iteration(op, places[axis], always=trip_count(op) == sizes[axis])


def is_unit(op: ir.OpView) -> bool:
    """Whether the block does ``op`` as one piece of work."""
    if _is_of_thread(op) or isinstance(op, scf.ParallelOp):
        return True
    inside = walk(op)
    if any(_is_of_thread(inner) or isinstance(inner, scf.ParallelOp) for inner in inside):
        return False
    return any(writes_memory(inner) for inner in [op, *inside])


def _leave_out(body: ir.Block, places: dict[str, ir.Value], sizes: dict[str, int]) -> None:
    """Let only the first threads along an axis work on a nest that is not bound to it."""
    for op in [inner for top in body.operations for inner in [top, *walk(top)]]:
        if not axis_of(op).startswith("thread") or _is_in_thread(op, body.owner):
            continue
        used = {axis_of(inner) for inner in [op, *walk(op)]}
        unused = [a for a in sizes if a.startswith("thread") and sizes[a] > 1 and a not in used]
        if unused:
            with ir.InsertionPoint(op), op.location:
                zero = constant_index(0)
                first = [arith.cmpi(arith.CmpIPredicate.eq, places[a], zero) for a in unused]
                guard = scf.IfOp(reduce(arith.andi, first))
                with ir.InsertionPoint(guard.then_block):
                    end = scf.YieldOp([])
            op.operation.move_before(end.operation)


def _of_the_block(body: ir.Block) -> list[memref.AllocOp]:
    """The allocations outside the work of one thread."""
    found = []
    for op in body.operations:
        if isinstance(op, memref.AllocOp):
            found += [] if memory.OWN in op.operation.attributes else [op]
        elif not is_unit(op):
            for region in op.operation.regions:
                for inner in region.blocks:
                    found += _of_the_block(inner)
    return found


def _share(body: ir.Block, number: ir.Value, threads: int) -> None:
    """Let the threads share parallel loops, and one thread do what is neither."""
    for op in list(body.operations):
        if _is_of_thread(op):
            continue
        if isinstance(op, scf.ParallelOp):
            _share_loop(op, number, threads)
        elif threads > 1 and (found := find_reduction(op)):
            share_reduction(found, number, threads)
        elif is_unit(op):
            with ir.InsertionPoint(op), op.location:
                first = arith.cmpi(arith.CmpIPredicate.eq, number, constant_index(0))
                guard = scf.IfOp(first)
                with ir.InsertionPoint(guard.then_block):
                    end = scf.YieldOp([])
            op.operation.move_before(end.operation)
        else:
            for region in op.operation.regions:
                for inner in region.blocks:
                    _share(inner, number, threads)


def _share_loop(loop: scf.ParallelOp, number: ir.Value, threads: int) -> None:
    """``for (i = number; i < iterations; i += threads)``, without a loop where one round does."""
    extents = _extents(loop)
    if len(loop.results) or any(constant(v) is None for v in [*loop.upperBound, *loop.lowerBound]):
        raise LoweringError("the threads of a block can share a loop of known extent only")
    total = math.prod(extents)
    with ir.InsertionPoint(loop), loop.location:
        limit = constant_index(total)
        if total > threads and total % threads == 0:
            around = scf.ForOp(constant_index(0), limit, constant_index(threads))
            body = around.body
            with ir.InsertionPoint(body):  # as many rounds for each, which LLVM can see
                position = arith.addi(around.induction_variable, number)
        elif total > threads:
            around = scf.ForOp(number, limit, constant_index(threads))
            position, body = around.induction_variable, around.body
        else:
            inside = arith.cmpi(arith.CmpIPredicate.ult, number, limit)
            guard = scf.IfOp(inside)
            position, body = number, guard.then_block
        with ir.InsertionPoint(body):
            values = unrank(position, [constant_index(extent) for extent in extents], loop)
            scf.YieldOp([])
    dissolve(loop, values, body)


def _check_thread_nest(loop: scf.ForOp) -> None:
    """Raise where a thread would do what belongs to others as well."""
    inner = [op for op in walk(loop) if _is_of_thread(op)]
    if not inner:
        return
    for op in loop.body.operations:
        if op in inner or any(each in inner for each in walk(op)):
            continue
        if isinstance(op, memref.AllocOp) or any(writes_memory(o) for o in [op, *walk(op)]):
            raise LoweringError(
                f"work between the loops bound to {axis_of(loop)} and {axis_of(inner[0])}: "
                "nothing says which thread does it; move it into the inner loop",
                op=str(op).split("\n")[0],
                location=str(op.location),
            )
