"""Which argument of a kernel its result may overwrite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from mlcflow.graph.linalg_ops import indexing_maps, is_identity, iterators
from mlcflow.mlir import func, ir, linalg, memref, scf, vector
from mlcflow.schedule.labels import constant

Span: TypeAlias = tuple[int | ir.Value, int]
"""Where a tile starts along a dimension, and how many elements it has."""


@dataclass(frozen=True)
class _Access:
    """A read or a write of a tile of an argument.

    ``spans``: those of the tile, a dimension each; of a tile in a tile, those of both.
    """

    op: ir.Operation
    writes: bool
    spans: tuple[Span, ...]


def overwritable(kernel: func.FuncOp) -> set[tuple[int, int]]:
    """Pairs ``(argument, result)`` of memrefs that may be the same memory, by number.

    They may if an iteration of the kernel reads of the argument only what it writes of the
    result, before it does, and no two iterations write the same elements: then it does not
    matter which iteration comes first, or runs in which thread. Runs on memrefs, before
    vectors are lowered.
    """
    types = list(kernel.type.inputs)
    accesses = [_accesses(argument) for argument in kernel.arguments]
    return {
        (argument, result)
        for result, writes in enumerate(accesses)
        if writes and len(writes) == 1 and writes[0].writes
        for argument, reads in enumerate(accesses)
        if reads and types[argument] == types[result] and _may_share(reads, writes[0])
    }


def _may_share(reads: list[_Access], write: _Access) -> bool:
    if any(read.writes for read in reads):
        return False
    if isinstance(write.op.opview, linalg.GenericOp):  # an element at a time
        return all(read.op == write.op for read in reads)
    order = list(write.op.block.operations)
    return _is_disjoint(write) and all(
        read.spans == write.spans
        and read.op.block == write.op.block
        and order.index(read.op.opview) < order.index(write.op.opview)
        for read in reads
    )


def _is_disjoint(write: _Access) -> bool:
    """Whether every loop around moves the tile by at least its size."""
    parent = write.op.parent.opview
    while isinstance(parent, scf.ForOp):
        step = constant(parent.step) or 0
        if not any(at == parent.induction_variable and size <= step for at, size in write.spans):
            return False
        parent = parent.operation.parent.opview
    return isinstance(parent, func.FuncOp)


def _accesses(value: ir.Value, around: tuple[Span, ...] = ()) -> list[_Access] | None:
    """What is done to the elements of a memref; ``None`` where that is not understood."""
    if not isinstance(value.type, ir.MemRefType):
        return None
    found: list[_Access] = []
    for use in value.uses:
        op = use.owner.operation.opview
        if isinstance(op, memref.SubViewOp) and not around and (spans := _subview(op)):
            inner = _accesses(op.result, spans)
            if inner is None:
                return None
            found += inner
        elif isinstance(op, linalg.GenericOp) and _is_by_element(op, use.operand_number):
            writes = use.operand_number >= len(op.inputs)
            found.append(_Access(op.operation, writes, around))
        elif (spans := _transfer(op, value)) is not None:
            writes = isinstance(op, vector.TransferWriteOp | memref.StoreOp)
            found.append(_Access(op.operation, writes, around + spans))
        else:
            return None
    return found


def _subview(op: memref.SubViewOp) -> tuple[Span, ...] | None:
    """The spans of a subview that keeps the rank and leaves out nothing in between."""
    source, result = ir.MemRefType(op.source.type), ir.MemRefType(op.result.type)
    if source.rank != result.rank or set(op.static_strides) - {1} or op.sizes:
        return None
    moving = iter(op.offsets)
    dynamic = ir.ShapedType.get_dynamic_stride_or_offset()
    offsets = [next(moving) if at == dynamic else at for at in op.static_offsets]
    return tuple(zip(map(_known, offsets), op.static_sizes, strict=True))


def _transfer(op: ir.OpView, value: ir.Value) -> tuple[Span, ...] | None:
    """The spans of an operation that reads or writes a vector or an element of ``value``."""
    if isinstance(op, memref.LoadOp | memref.StoreOp) and op.memref == value:
        return tuple((_known(at), 1) for at in op.indices)
    if not isinstance(op, vector.TransferReadOp | vector.TransferWriteOp):
        return None
    if op.base != value or op.mask is not None:
        return None
    is_read = isinstance(op, vector.TransferReadOp)
    shape = ir.VectorType((op.vector if is_read else op.valueToStore).type).shape
    rank = ir.MemRefType(value.type).rank
    affine_map = ir.AffineMapAttr(op.attributes["permutation_map"]).value
    trailing = ir.AffineMap.get_minor_identity(rank, len(shape), context=op.context)
    if affine_map != trailing:
        return None
    sizes = [1] * (rank - len(shape)) + list(shape)
    return tuple(zip(map(_known, op.indices), sizes, strict=True))


def _known(at: int | ir.Value) -> int | ir.Value:
    if isinstance(at, int):
        return at
    number = constant(at)
    return at if number is None else number


def _is_by_element(op: linalg.GenericOp, operand: int) -> bool:
    """Whether the operation touches the elements of an operand one by one, in loop order."""
    return "reduction" not in iterators(op) and is_identity(indexing_maps(op)[operand])
