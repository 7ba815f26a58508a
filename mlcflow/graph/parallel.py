"""Loops that schedules mark as parallel, run by several threads.

``Schedule.parallel`` marks an ``scf.for``; here it becomes an ``omp.parallel`` region, in which
each thread takes some iterations from a counter until none are left. Which thread computes an
iteration changes nothing in what it computes, so results do not depend on their number.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
from collections.abc import Callable

from mlcflow import mlir
from mlcflow.errors import LoweringError
from mlcflow.graph.memory import SCRATCH
from mlcflow.graph.scratch import is_inside, marked_loops
from mlcflow.mlir import arith, cf, func, ir, memref, scf, walk
from mlcflow.runtime.interface import THREADS
from mlcflow.schedule.labels import PARALLEL, constant, trip_count
from mlcflow.target import Target

log = logging.getLogger("mlcflow")

CHUNKS = 8
"""A thread takes its share in so many pieces, so that a slow one leaves some to the others."""

# What LLVM's translation of omp.parallel calls, in every module that needs it. The process that
# loads the code may call mlcflow_use_threads; left alone, it runs on one thread and needs no
# library. Upstream declares __kmpc_fork_call with variable arguments; it always passes one.
_FORK = """
llvm.mlir.global internal @mlcflow_threads(1 : i32) {addr_space = 0 : i32} : i32
llvm.mlir.global internal @mlcflow_fork() {addr_space = 0 : i32} : !llvm.ptr {
  %none = llvm.mlir.zero : !llvm.ptr
  llvm.return %none : !llvm.ptr
}
llvm.mlir.global internal constant @mlcflow_zero(0 : i32) {addr_space = 0 : i32} : i32
llvm.func @mlcflow_use_threads(%number: i32, %function: !llvm.ptr) {
  %fork = llvm.mlir.addressof @mlcflow_fork : !llvm.ptr
  llvm.store %function, %fork : !llvm.ptr, !llvm.ptr
  %threads = llvm.mlir.addressof @mlcflow_threads : !llvm.ptr
  llvm.store %number, %threads : i32, !llvm.ptr
  llvm.return
}
llvm.func @__kmpc_fork_call(%where: !llvm.ptr, %count: i32, %task: !llvm.ptr, %context: !llvm.ptr) {
  %threads = llvm.mlir.addressof @mlcflow_threads : !llvm.ptr
  %number = llvm.load %threads : !llvm.ptr -> i32
  %one = llvm.mlir.constant(1 : i32) : i32
  %several = llvm.icmp "sgt" %number, %one : i32
  llvm.cond_br %several, ^fork, ^alone
^fork:
  %fork = llvm.mlir.addressof @mlcflow_fork : !llvm.ptr
  %function = llvm.load %fork : !llvm.ptr -> !llvm.ptr
  llvm.call %function(%number, %task, %context) : !llvm.ptr, (i32, !llvm.ptr, !llvm.ptr) -> ()
  llvm.return
^alone:
  %zero = llvm.mlir.addressof @mlcflow_zero : !llvm.ptr
  llvm.call %task(%zero, %zero, %context) : !llvm.ptr, (!llvm.ptr, !llvm.ptr, !llvm.ptr) -> ()
  llvm.return
}
"""


def run_in_threads(target: Target) -> Callable[[ir.Module], None]:
    """A step that turns marked loops into OpenMP's parallel regions.

    For a target of one core it only removes the marks. A marked loop directly inside of
    another is run together with it as one loop; further inside, a mark means nothing. Raises
    ``LoweringError`` when iterations of a marked loop hand values on.
    """

    def run_loops_in_threads(module: ir.Module) -> None:
        loops = marked_loops(module) if target.cores > 1 else []
        outermost = [loop for loop in loops if not any(is_inside(loop, o) for o in loops)]
        nests = [nest for nest in map(_nest, outermost) if nest]
        for nest in nests:
            _parallelize(nest, target.cores)
        for loop in marked_loops(module):
            del loop.attributes[PARALLEL]
        if nests:
            for op in mlir.parse(_FORK, module.context).body.operations:
                module.body.append(op.operation.clone(ip=False))
        module.operation.attributes[THREADS] = ir.IntegerAttr.get(
            ir.IntegerType.get_signless(32), target.cores
        )

    return run_loops_in_threads


def _nest(loop: scf.ForOp) -> list[scf.ForOp]:
    """``loop`` and the marked loops directly inside; nothing if they cannot run in threads."""
    if any(isinstance(op, cf.AssertOp) for op in walk(loop)):
        # A thread of ours could not tell the caller which assertion failed.
        log.info("%s: a loop with assertions runs on one thread", loop.location)
        return []
    nest: list[scf.ForOp] = []
    inner: ir.OpView | None = loop
    while isinstance(inner, scf.ForOp) and PARALLEL in inner.attributes:
        if inner.results:
            types = ", ".join(str(result.type) for result in inner.results)
            raise LoweringError(
                f"a loop marked as parallel hands {types} on from one iteration to the next",
                op="scf.for",
                location=str(inner.location),
            )
        bounds = (inner.lowerBound, inner.upperBound, inner.step)
        if nest and any(constant(bound) is None for bound in bounds):
            break
        nest.append(inner)
        *before, inner = list(inner.body.operations)[:-1] or [None]
        if not all(_is_pure(op) for op in before):
            break
    return nest


def _is_pure(op: ir.OpView) -> bool:
    """Whether an operation may be computed again in each iteration of a loop behind it."""
    name = op.operation.name
    return name.startswith(("affine.", "arith.")) or name in ("memref.subview", "memref.cast")


def _parallelize(nest: list[scf.ForOp], cores: int) -> None:
    """Replace the perfectly nested loops of ``nest`` by one parallel region."""
    outer = nest[0]
    for around, inside in itertools.pairwise(nest):
        first = inside.body.operations[0].operation
        for op in list(around.body.operations)[:-2]:
            op.operation.move_before(first)
    with ir.InsertionPoint(outer), outer.location:
        bounds = [[_known(v) for v in (o.lowerBound, o.upperBound, o.step)] for o in nest]
        counts = [arith.ceildivsi(arith.subi(high, low), step) for low, high, step in bounds]
        total = functools.reduce(arith.muli, counts)
        size = _chunk_size(nest, total, cores)
        counter = _counter()
        clauses = {"operandSegmentSizes": ir.DenseI32ArrayAttr.get([0] * 6)}
        region = ir.Operation.create("omp.parallel", attributes=clauses, regions=1)
        region.regions[0].blocks.append()
        with ir.InsertionPoint(region.regions[0].blocks[0]):
            numbers = _take_numbers(counter, size, total)
            ir.Operation.create("omp.terminator")
        with ir.InsertionPoint.at_block_terminator(numbers.body):
            _place(numbers.induction_variable, nest, bounds, counts)
    terminator = numbers.body.operations[len(numbers.body.operations) - 1].operation
    for op in list(nest[-1].body.operations)[:-1]:
        op.operation.move_before(terminator)
    outer.operation.erase()
    _divide_scratch(region, cores)


def _counter() -> ir.Value:
    """An integer in memory, set to 0, that threads share."""
    i64 = ir.IntegerType.get_signless(64)
    counter = memref.alloca(ir.MemRefType.get([], i64), [], [])
    memref.store(arith.constant(i64, 0), counter, [])
    return counter


def _take(counter: ir.Value, size: ir.Value) -> ir.Value:
    """The next ``size`` numbers that no other thread takes; gives the first."""
    i64, index = ir.IntegerType.get_signless(64), ir.IndexType.get()
    step = arith.index_cast(i64, size)
    taken = memref.atomic_rmw(arith.AtomicRMWKind.addi, step, counter, [])
    return arith.index_cast(index, taken)


def _known(value: ir.Value) -> ir.Value:
    number = constant(value)
    return value if number is None else arith.constant(ir.IndexType.get(), number)


def _chunk_size(nest: list[scf.ForOp], total: ir.Value, cores: int) -> ir.Value:
    """How many iterations a thread takes at once."""
    extent = math.prod(trip_count(loop) for loop in nest)
    if all(trip_count(loop) >= 0 for loop in nest):
        return arith.constant(ir.IndexType.get(), max(1, extent // (CHUNKS * cores)))
    pieces = arith.constant(ir.IndexType.get(), CHUNKS * cores)
    one = arith.constant(ir.IndexType.get(), 1)
    return arith.maxsi(arith.divsi(total, pieces), one)


def _take_numbers(counter: ir.Value, size: ir.Value, total: ir.Value) -> scf.ForOp:
    """A loop over numbers below ``total``, ``size`` at a time, that no other thread takes."""
    index = ir.IndexType.get()
    loop = scf.WhileOp([index], [])
    loop.before.blocks.append()
    loop.after.blocks.append(index)
    with ir.InsertionPoint(loop.before.blocks[0]):
        start = _take(counter, size)
        scf.condition(arith.cmpi(arith.CmpIPredicate.ult, start, total), [start])
    with ir.InsertionPoint(loop.after.blocks[0]):
        start = loop.after.blocks[0].arguments[0]
        end = arith.minui(arith.addi(start, size), total)
        numbers = scf.ForOp(start, end, arith.constant(index, 1))
        with ir.InsertionPoint(numbers.body):
            scf.yield_([])
        scf.yield_([])
    return numbers


def _place(
    number: ir.Value,
    nest: list[scf.ForOp],
    bounds: list[list[ir.Value]],
    counts: list[ir.Value],
) -> None:
    """Compute the induction variables of ``nest`` for iteration ``number`` of all."""
    for loop, (low, _, step), count in reversed(list(zip(nest, bounds, counts, strict=True))):
        position = number
        if loop is not nest[0]:
            position, number = arith.remui(number, count), arith.divui(number, count)
        place = arith.addi(low, arith.muli(position, step))
        loop.induction_variable.replace_all_uses_with(place)


def _divide_scratch(region: ir.Operation, cores: int) -> None:
    """Let each thread of a region use its own piece of the memory that the kernel was lent.

    There is a piece for each core. Should more threads come, they leave again.
    """
    views = _scratch_views(region)
    if not views:
        return
    block = region.regions[0].blocks[0]
    body = list(block.operations)[:-1]
    index = ir.IndexType.get()
    with ir.InsertionPoint(region), region.location:
        counter = _counter()
    with ir.InsertionPoint.at_block_begin(block), region.location:
        number = _take(counter, arith.constant(index, 1))
        is_one = arith.cmpi(arith.CmpIPredicate.ult, number, arith.constant(index, cores))
        choice = scf.IfOp(is_one)
    with ir.InsertionPoint(choice.then_block), region.location:
        for view, size, uses in views:
            shift = arith.muli(number, arith.constant(index, size))
            shift = arith.addi(shift, arith.constant(index, constant(view.byte_shift) or 0))
            own = memref.view(view.result.type, view.source, shift, [])
            for user, operand in uses:
                user.operands[operand] = own
        end = scf.yield_([])
    for op in body:
        op.operation.move_before(end.operation)


def _scratch_views(region: ir.Operation) -> list[tuple]:
    """Views of lent memory: view, bytes of a thread's piece, and their uses in the region."""
    function = region
    while not isinstance(function.opview, func.FuncOp):
        function = function.parent
    found = []
    given = function.attributes.get("arg_attrs", [])
    for argument, entries in zip(function.opview.arguments, map(ir.DictAttr, given), strict=False):
        if SCRATCH in entries:
            size = ir.IntegerAttr(entries[SCRATCH]).value
            for view in [use.owner.opview for use in argument.uses]:
                uses = [
                    (use.owner, use.operand_number)
                    for use in view.result.uses
                    if is_inside(use.owner.opview, region)
                ]
                if uses:
                    found.append((view, size, uses))
    return found
