"""Buffers in which the tiles of an iteration, and of iterations to come, take turns."""

from __future__ import annotations

from mlcflow.errors import LoweringError
from mlcflow.gpu.loops import constant_index
from mlcflow.gpu.memory import in_shared_memory, put_views_in_shared_memory
from mlcflow.gpu.swizzle import PIECE, SWIZZLE
from mlcflow.mlir import arith, ir, linalg, memref, scf
from mlcflow.schedule.labels import constant, trip_count

STAGES = "mlcflow.stages"
"""On a copy: how many tiles of it there may be at once."""
_DYNAMIC = ir.ShapedType.get_dynamic_stride_or_offset()

Buffers = dict[linalg.CopyOp, ir.Value]
"""By the copies that fill them."""


def stages_of(loop: scf.ForOp, copies: list[linalg.CopyOp]) -> int:
    """How many tiles there are at once: two where the iterations are not known."""
    wanted = max(int(ir.StringAttr(op.attributes[STAGES]).value) for op in copies)
    return max(2, min(wanted, trip_count(loop)))


def first_iterations(loop: scf.ForOp, count: int) -> list[ir.Value]:
    """The numbers of the first iterations, which must be known."""
    first = constant(loop.lowerBound)
    if first is None:
        raise LoweringError(
            "an asynchronous copy: expected a loop around it that begins at a known number",
            op=str(loop).split("\n")[0],
            location=str(loop.location),
        )
    return [constant_index(first + n * (constant(loop.step) or 1)) for n in range(count)]


def tile_of(op: linalg.CopyOp) -> ir.Value:
    """The tile that a copy fills; ``LoweringError`` unless pieces of 16 bytes can go there."""
    source, buffer = op.operands
    kind = ir.MemRefType(buffer.type)
    whole = not isinstance(buffer.owner, ir.Block) and isinstance(
        buffer.owner.opview, memref.AllocOp
    )
    strides, _ = ir.MemRefType(source.type).get_strides_and_offset()
    lanes = lanes_of(kind)
    if not whole or strides[-1] != 1 or any(s % lanes for s in [*strides[:-1], kind.shape[-1]]):
        raise LoweringError(
            "an asynchronous copy: expected rows of whole 16 bytes, copied to memory of their own",
            op=str(op),
            location=str(op.location),
        )
    return buffer


def lanes_of(kind: ir.MemRefType) -> int:
    """Elements in 16 bytes."""
    return PIECE * 8 // kind.element_type.width


def many(op: linalg.CopyOp, stages: int) -> ir.Value:
    """Shared memory for as many tiles like the one that a copy fills."""
    tile = tile_of(op)
    kind = ir.MemRefType(tile.type)
    found = memref.alloc(
        in_shared_memory(ir.MemRefType.get([stages, *kind.shape], kind.element_type)), [], []
    )
    if SWIZZLE in tile.owner.attributes:
        found.owner.attributes[SWIZZLE] = tile.owner.attributes[SWIZZLE]
    return found


def next_slot(slot: ir.Value, stages: int) -> ir.Value:
    """The number of the tile after another one in a buffer."""
    following = arith.addi(slot, constant_index(1))
    is_end = arith.cmpi(arith.CmpIPredicate.eq, following, constant_index(stages))
    return arith.select(is_end, constant_index(0), following)


def at_iteration(value: ir.Value, loop: scf.ForOp, number: ir.Value) -> ir.Value:
    """``value`` as it is in the iteration of ``loop`` that has ``number``."""
    if value == loop.induction_variable:
        return number
    if isinstance(value.owner, ir.Block) or not _is_in(value.owner, loop):
        return value
    operands = [at_iteration(operand, loop, number) for operand in value.owner.operands]
    copy = value.owner.clone()
    for position, operand in enumerate(operands):
        copy.operands[position] = operand
    return copy.results[list(value.owner.results).index(value)]


def take_over(
    loop: scf.ForOp, again: scf.ForOp, buffers: Buffers, read: ir.Value, carried: list[ir.Value]
) -> ir.OpView:
    """Move the body of ``loop`` into ``again``, where it uses the tiles of number ``read``.

    ``carried``: what the next iteration takes. Gives the end of the new body.
    """
    for op, buffer in buffers.items():
        old = tile_of(op)
        with ir.InsertionPoint(op):
            tile = _tile(buffer, read)
        old.replace_all_uses_with(tile)
        put_views_in_shared_memory(tile)
        op.operation.erase()
        for use in _deallocations(old):
            use.erase()
        old.owner.erase()
    body = list(loop.body.operations)[:-1]
    with ir.InsertionPoint(again.body):
        end = scf.YieldOp(carried)
    for op in body:
        if op.operation.name == "memref.dealloc" and _is_tile(op.operands[0]):
            op.operation.erase()
        else:
            op.operation.move_before(end.operation)
    loop.induction_variable.replace_all_uses_with(again.induction_variable)
    loop.operation.erase()
    return end


def _tile(buffer: ir.Value, number: ir.Value) -> ir.Value:
    """One of the tiles in a buffer."""
    kind = ir.MemRefType(buffer.type)
    shape = list(kind.shape)[1:]
    strides, _ = kind.get_strides_and_offset()
    layout = ir.StridedLayoutAttr.get(_DYNAMIC, strides[1:])
    tile = ir.MemRefType.get(shape, kind.element_type, layout, kind.memory_space)
    rank = len(shape)
    return memref.SubViewOp(
        tile, buffer, [number], [], [], [_DYNAMIC, *[0] * rank], [1, *shape], [1] * (rank + 1)
    ).result


def _is_in(op: ir.Operation, loop: scf.ForOp) -> bool:
    parent = op.operation.parent
    while parent is not None and parent != loop.operation:
        parent = parent.parent
    return parent is not None


def _deallocations(buffer: ir.Value) -> list[ir.Operation]:
    return [u.owner.operation for u in buffer.uses if isinstance(u.owner.opview, memref.DeallocOp)]


def _is_tile(value: ir.Value) -> bool:
    return not isinstance(value.owner, ir.Block) and isinstance(
        value.owner.opview, memref.SubViewOp
    )
