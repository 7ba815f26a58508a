"""From bound loops to ``gpu.launch``.

Upstream's ``transform.gpu.map_forall_to_blocks`` takes ``scf.forall`` operations, which carry
tensors only in an order of their own; the loops of a schedule are ``scf.for``, and stay so until
here, so that every stage before runs on a processor as it stands.
"""

from __future__ import annotations

import math

from mlcflow.errors import LoweringError
from mlcflow.gpu import block, memory
from mlcflow.gpu.axes import THREADS, Grid, axis_of, grid_of, is_one_block
from mlcflow.gpu.loops import constant_index, dissolve, move_into, product, unrank
from mlcflow.mlir import arith, func, gpu, ir, nvgpu, scf, walk
from mlcflow.schedule import labels
from mlcflow.schedule.labels import constant

TOUCHES = ("memref.load", "memref.store", "vector.", "linalg.", "tm_tensor.")


def map_to_launches(module: ir.Module) -> None:
    """Make a ``gpu.launch`` of each nest of loops on memory; the rest is host code.

    - A nest with bound loops gets the blocks and threads that they name.
    - An ``scf.parallel`` (a linalg operation without a schedule) gets a thread an element.
    - Loops without parallelism, and stores, run on one thread.

    Kernels follow each other on one stream, so a nest sees what those before it wrote.
    """
    for function in list(module.body.operations):
        if isinstance(function, func.FuncOp):
            if is_one_block(function):
                _launch_block(function)
            for body in function.regions[0]:
                _map_host(body)
            labels.clear(function)


def _launch_block(function: func.FuncOp) -> None:
    """Make one launch of all that a function does: its threads belong to a single block."""
    operations = list(function.entry_block.operations)
    nest = next(op for op in operations if axis_of(op) or any(map(axis_of, walk(op))))
    grids = [grid_of(op, block.shared_work(op)) for op in operations]
    threads = tuple(max(grid.threads[n] for grid in grids) for n in range(3))
    grid = Grid((1, 1, 1), (threads[0], threads[1], threads[2]))
    launch = _launch(nest, grid)
    of_host = _of_host(operations)
    work = [op for op in operations[:-1] if op not in of_host]
    move_into(launch.regions[0].blocks[0], work)
    block.lower(launch, grid)
    memory.own(launch)


def _of_host(operations: list[ir.OpView]) -> set[ir.OpView]:
    """What describes arrays to the chip, with what it takes."""
    found: set[ir.OpView] = set()
    for op in reversed(operations):
        if isinstance(op, nvgpu.TmaCreateDescriptorOp) or op in found:
            owners = [value.owner for value in op.operation.operands]
            found |= {op, *(owner.opview for owner in owners if not isinstance(owner, ir.Block))}
    return found


def _map_host(body: ir.Block) -> None:
    for op in list(body.operations):
        if isinstance(op, scf.ParallelOp):
            _launch_elements(op)
        elif axis_of(op):
            _launch_bound(op)
        elif isinstance(op, gpu.LaunchOp):
            continue
        elif _is_serial_work(op):
            _launch_one_thread(op)
        else:
            for region in op.operation.regions:
                for inner in region.blocks:
                    _map_host(inner)


def _is_serial_work(op: ir.OpView) -> bool:
    """Whether ``op`` works on memory without anything in it that is launched by itself."""
    if op.operation.name in ("memref.store", "linalg.generic", "linalg.fill"):
        return True
    inside = walk(op)
    if not isinstance(op, scf.ForOp | scf.IfOp) or len(op.operation.results):
        return False
    touches = any(inner.operation.name.startswith(TOUCHES) for inner in inside)
    return touches and not any(
        isinstance(inner, func.CallOp | scf.ParallelOp) or axis_of(inner) for inner in inside
    )


def _launch(op: ir.OpView, grid: Grid) -> gpu.LaunchOp:
    """An empty launch in front of ``op``."""
    with ir.InsertionPoint(op), op.location:
        launch = gpu.LaunchOp(grid.blocks, grid.threads)
        with ir.InsertionPoint(launch.regions[0].blocks[0]):
            gpu.TerminatorOp()
    return launch


def _launch_bound(nest: scf.ForOp) -> None:
    grid = grid_of(nest, block.shared_work(nest))
    launch = _launch(nest, grid)
    body = launch.regions[0].blocks[0]
    move_into(body, [nest])
    block.lower(launch, grid)
    memory.own(launch)


def _launch_one_thread(op: ir.OpView) -> None:
    launch = _launch(op, Grid((1, 1, 1), (1, 1, 1)))
    move_into(launch.regions[0].blocks[0], [op])
    memory.own(launch)


def _launch_elements(loop: scf.ParallelOp) -> None:
    """A thread for each iteration of a parallel loop, last dimension fastest."""
    if len(loop.results):
        raise LoweringError(
            "scf.parallel with results", op=str(loop).split("\n")[0], location=str(loop.location)
        )
    with ir.InsertionPoint(loop), loop.location:
        counts = [
            _count(*bounds)
            for bounds in zip(loop.lowerBound, loop.upperBound, loop.step, strict=True)
        ]
        known = [size for count in counts if (size := constant(count)) is not None]
        total = product(counts)
        threads, blocks = THREADS, arith.ceildivui(total, constant_index(THREADS))
        if len(known) == len(counts):
            size = math.prod(known)
            if size == 0:
                loop.operation.erase()
                return
            threads = min(THREADS, -(-size // 32) * 32)
            blocks = constant_index(-(-size // threads))
        else:  # no launch may have no block
            blocks = arith.maxui(blocks, constant_index(1))
        launch = gpu.LaunchOp((blocks, 1, 1), (threads, 1, 1))
    body = launch.regions[0].blocks[0]
    arguments = list(body.arguments)
    with ir.InsertionPoint(body), loop.location:
        position = arith.addi(arith.muli(arguments[0], constant_index(threads)), arguments[3])
        inside = arith.cmpi(arith.CmpIPredicate.ult, position, total)
        guard = scf.IfOp(inside)
        with ir.InsertionPoint(guard.then_block):
            values = unrank(position, counts, loop)
            scf.YieldOp([])
        gpu.TerminatorOp()
    dissolve(loop, values, guard.then_block)
    memory.own(launch)


def _count(low: ir.Value, high: ir.Value, step: ir.Value) -> ir.Value:
    """Iterations of a loop with these bounds."""
    bounds = [constant(value) for value in (low, high, step)]
    if None not in bounds:
        first, last, by = (bound or 0 for bound in bounds)
        return constant_index(max(0, -(-(last - first) // by)))
    return arith.ceildivsi(arith.subi(high, low), step)
