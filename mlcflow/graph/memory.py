"""The memory plan: one arena for everything that lives within a call."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlcflow.graph.interface import ENTRY_POINTS, add_argument
from mlcflow.mlir import arith, func, ir, memref

ALIGNMENT = 64


@dataclass(frozen=True)
class Interval:
    """A buffer of ``size`` bytes, alive from operation number ``first`` to ``last``."""

    size: int
    first: int
    last: int


def plan_memory(module: ir.Module) -> None:
    """Replace the allocations of ``@main`` by views of an arena that the caller passes.

    Buffers that are not alive at the same time share memory. Allocations whose size is known
    at run time only, or that leave the function, stay.
    """
    for function in module.body.operations:
        if isinstance(function, func.FuncOp) and function.name.value == ENTRY_POINTS[0]:
            _plan(function)


def _plan(main: func.FuncOp) -> None:
    block = main.entry_block
    number = {op: index for index, op in enumerate(block.operations)}
    planned = []
    for op in number:
        if isinstance(op, memref.AllocOp) and ir.MemRefType(op.memref.type).has_static_shape:
            last = _last_use(op.memref, number, set())
            if last is not None:
                size = _bytes(ir.MemRefType(op.memref.type))
                planned.append((op, Interval(size, number[op], last)))
    if not planned:
        return
    offsets, total = place([interval for _, interval in planned])
    i8 = ir.IntegerType.get_signless(8)
    arena = add_argument(main, ir.MemRefType.get([total], i8), "arena", "arena")
    for (op, _), offset in zip(planned, offsets, strict=True):
        with ir.InsertionPoint(op), op.location:
            shift = arith.constant(ir.IndexType.get(), offset)
            view = memref.view(op.memref.type, arena, shift, [])
        op.memref.replace_all_uses_with(view)
        op.operation.erase()


def place(intervals: list[Interval]) -> tuple[list[int], int]:
    """An offset for each interval, and the bytes needed in all.

    Largest first, each at the lowest offset where it meets no buffer that is alive at the
    same time (greedy by size: Pisarchyk and Lee, https://arxiv.org/abs/2001.03288).
    """
    offsets: dict[int, int] = {}
    for index in sorted(range(len(intervals)), key=lambda i: (-intervals[i].size, i)):
        interval, offset = intervals[index], 0
        alive = sorted(
            (offsets[other], intervals[other].size)
            for other in offsets
            if intervals[other].first <= interval.last and interval.first <= intervals[other].last
        )
        for start, size in alive:
            if start - offset >= interval.size:
                break
            offset = max(offset, start + size)
        offsets[index] = offset
    total = max(offsets[i] + intervals[i].size for i in offsets)
    return [offsets[i] for i in range(len(intervals))], total


def _bytes(kind: ir.MemRefType) -> int:
    """Size in memory, rounded up to the alignment; a zero-sized buffer takes one unit."""
    text = str(kind.element_type)
    if text == "index":
        width = 8
    elif isinstance(kind.element_type, ir.ComplexType):
        width = ir.ComplexType(kind.element_type).element_type.width // 4
    else:
        width = max(1, kind.element_type.width // 8)
    return max(1, -(-math.prod(kind.shape) * width // ALIGNMENT)) * ALIGNMENT


def _last_use(value: ir.Value, number: dict, seen: set[ir.Value]) -> int | None:
    """The number of the last operation that may touch ``value``; ``None`` if it escapes.

    Every memref that an operation makes from an alias of ``value`` is taken for an alias.
    """
    if value in seen:
        return -1
    seen.add(value)
    last = -1
    for use in value.uses:
        op = use.owner
        if isinstance(op, func.ReturnOp):
            return None
        results = list(op.results)
        if op.operation.name in ("scf.yield", "scf.condition"):
            results = list(op.operation.parent.results)
        for result in results:
            if isinstance(result.type, ir.MemRefType | ir.UnrankedMemRefType):
                further = _last_use(result, number, seen)
                if further is None:
                    return None
                last = max(last, further)
        while op not in number:
            op = op.operation.parent
        last = max(last, number[op])
    return last
