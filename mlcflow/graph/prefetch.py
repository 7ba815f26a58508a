"""Kernels that work by rows ask for the next row while they compute with the last."""

from __future__ import annotations

from mlcflow.graph.memory import buffer_bytes
from mlcflow.graph.outline import kernels
from mlcflow.mlir import arith, func, ir, memref, scf, vector
from mlcflow.pipeline import Step
from mlcflow.target import Target

LINE = 64
"""Bytes of a line of the cache."""

ROWS = 4
"""Rows that have to fit a cache at once: this one, the next, a result and one between."""


def prefetch_rows(target: Target) -> Step:
    """A step: the second pass over a row prefetches the row after it.

    The first pass does little with each element, so that it waits for memory; the later ones
    find the row in the cache and leave memory idle. The processor looks ahead by itself only
    within a page, and a row may be one.
    """

    def prefetch(module: ir.Module) -> None:
        for function in kernels(module):
            for loop in function.regions[0].blocks[0].operations:
                if isinstance(loop, scf.ForOp):
                    _prefetch(loop, target.caches)

    return prefetch


def _prefetch(loop: scf.ForOp, caches: tuple[int, ...]) -> None:
    """Add prefetches to ``loop`` over rows, or to a loop over rows in it."""
    passes = [op for op in loop.body.operations if isinstance(op, scf.ForOp)]
    seen: set[ir.Value] = set()
    done: set[ir.Value] = set()
    for inner in passes:
        reads = {op.base: op for op in inner.body.operations if _reads_row(op, loop, inner)}
        for source, read in reads.items():
            level = _level(source, caches)
            if source in seen and source not in done and level:
                _ask_for_next(read, loop, level)
                done.add(source)
        seen |= set(reads)
    if not seen:
        for inner in passes:
            _prefetch(inner, caches)


def _reads_row(op: ir.OpView, loop: scf.ForOp, inner: scf.ForOp) -> bool:
    """Whether ``op`` reads, of an argument, a part of the row that ``loop`` is at."""
    if not isinstance(op, vector.TransferReadOp) or not isinstance(op.base.owner, ir.Block):
        return False
    *outer, last = list(op.indices)
    kind = ir.VectorType(op.results[0].type)
    return (
        isinstance(op.base.owner.owner.opview, func.FuncOp)
        and last == inner.induction_variable
        and outer.count(loop.induction_variable) == 1
        and kind.rank == 1
        and kind.shape[0] * kind.element_type.width % (8 * LINE) == 0
    )


def _level(source: ir.Value, caches: tuple[int, ...]) -> int:
    """The hint of the first cache that holds the rows, 3 for the nearest; 0 if nothing is won."""
    kind = ir.MemRefType(source.type)
    if not kind.has_static_shape or buffer_bytes(kind) <= caches[0]:
        return 0
    row = kind.shape[-1] * kind.element_type.width // 8
    fits = [3 - number for number, size in enumerate(caches[:2]) if ROWS * row <= size]
    return fits[0] if fits else 0


def _ask_for_next(read: vector.TransferReadOp, loop: scf.ForOp, level: int) -> None:
    """Before ``read``, prefetch the same part of the next row; of the last row, itself."""
    one = _before(loop, 1)
    with ir.InsertionPoint(loop.body.operations[0]), loop.location:
        last = arith.subi(loop.upperBound, one)
        following = arith.minsi(arith.addi(loop.induction_variable, loop.step), last)
    kind = ir.VectorType(read.results[0].type)
    step = 8 * LINE // kind.element_type.width
    row = [following if index == loop.induction_variable else index for index in read.indices]
    for place in range(0, kind.shape[0], step):
        distance = _before(loop, place)
        with ir.InsertionPoint(read), read.location:
            column = arith.addi(row[-1], distance)
            memref.PrefetchOp(read.base, [*row[:-1], column], False, level, True)


def _before(loop: scf.ForOp, number: int) -> ir.Value:
    with ir.InsertionPoint(loop), loop.location:
        return arith.constant(ir.IndexType.get(), number)
