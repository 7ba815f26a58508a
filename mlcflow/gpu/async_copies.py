"""Copies to shared memory that go on while the block computes.

``mlcflow.stages`` on a ``linalg.copy`` says that it may: tiles for later iterations of the loop
around it are under way (``cp.async``) while the one of this iteration is worked on. Upstream's
``transform.nvgpu.pipeline_shared_memory_copies`` wants loops of single threads with groups and
multiple buffers already made; here the copy is still one operation of the whole block.
"""

from __future__ import annotations

from mlcflow.errors import LoweringError
from mlcflow.gpu.hazards import ORDERED
from mlcflow.gpu.loops import constant_index
from mlcflow.gpu.memory import in_shared_memory, put_views_in_shared_memory
from mlcflow.gpu.swizzle import PIECE, SWIZZLE, swizzle_of
from mlcflow.mlir import arith, func, gpu, ir, linalg, memref, nvgpu, nvvm, scf, walk
from mlcflow.schedule.labels import constant, trip_count

STAGES = "mlcflow.stages"
_DYNAMIC = ir.ShapedType.get_dynamic_stride_or_offset()


def pipeline_copies(module: ir.Module) -> None:
    """Make the marked copies of a module asynchronous, and their buffers as many as stages.

    In each iteration of the loop: wait for its tiles, wait for the other threads, begin to copy
    the tiles of a later iteration over those of the last one, compute.
    """
    for function in module.body.operations:
        if not isinstance(function, func.FuncOp):
            continue
        marked = [op for op in walk(function) if STAGES in op.operation.attributes]
        for body in dict.fromkeys(op.operation.block for op in marked):
            copies = [op for op in marked if op.operation.block == body]
            loop = body.owner.opview
            with body.owner.location:
                # Of unknown iterations one is certain.
                if (
                    isinstance(loop, scf.ForOp)
                    and trip_count(loop) not in (0, 1)
                    and not loop.results
                ):
                    _pipeline(loop, copies)
                else:
                    _copy_once(copies)


def _copy_once(copies: list[linalg.CopyOp]) -> None:
    """Without a loop around them: copy, and wait."""
    for op in copies:
        buffer = _buffer(op)
        buffer.set_type(in_shared_memory(ir.MemRefType(buffer.type)))
        put_views_in_shared_memory(buffer)
        with ir.InsertionPoint(op):
            _copy(op.operands[0], buffer, None)
    with ir.InsertionPoint(copies[-1]):
        _commit()
        _wait(0)
    for op in copies:
        op.operation.erase()


def _pipeline(loop: scf.ForOp, copies: list[linalg.CopyOp]) -> None:
    trips = trip_count(loop)
    wanted = max(int(ir.StringAttr(op.attributes[STAGES]).value) for op in copies)
    stages = max(2, min(wanted, trips))  # two where the iterations are not known
    with ir.InsertionPoint(loop):
        buffers = {op: _multiplied(_buffer(op), stages) for op in copies}
        for number in range(stages - 1):
            first = constant(loop.lowerBound) or 0
            value = constant_index(first + number * (constant(loop.step) or 1))
            slot = constant_index(number)
            for op, buffer in buffers.items():
                _copy(_again(op.operands[0], loop, value), buffer, slot)
            _commit()
        # The tile that is read, and where the next one goes: the tile of the last iteration.
        start = [constant_index(0), constant_index(stages - 1)]
        again = scf.ForOp(loop.lowerBound, loop.upperBound, loop.step, start)
    again.attributes[ORDERED] = ir.UnitAttr.get()
    read, write = again.inner_iter_args
    _in_turn(loop, again, buffers, stages)
    for op in copies:
        old = _buffer(op)
        with ir.InsertionPoint(op):
            tile = _slot(buffers[op], read)
        old.replace_all_uses_with(tile)
        put_views_in_shared_memory(tile)
        op.operation.erase()
        for use in list(_deallocations(old)):
            use.erase()
        old.owner.erase()
    body = list(loop.body.operations)[:-1]
    with ir.InsertionPoint(again.body):
        end = scf.YieldOp([_next(read, stages), _next(write, stages)])
    for op in body:
        if op.operation.name == "memref.dealloc" and _is_slot(op.operands[0]):
            op.operation.erase()
        else:
            op.operation.move_before(end.operation)
    loop.induction_variable.replace_all_uses_with(again.induction_variable)
    loop.operation.erase()


def _in_turn(
    loop: scf.ForOp, again: scf.ForOp, buffers: dict[linalg.CopyOp, ir.Value], stages: int
) -> None:
    """What an iteration does before it computes."""
    write = again.inner_iter_args[1]
    with ir.InsertionPoint(again.body):
        _wait(stages - 2)
        gpu.BarrierOp()
        step = constant(loop.step) or 1
        ahead = arith.addi(again.induction_variable, constant_index((stages - 1) * step))
        more = scf.IfOp(arith.cmpi(arith.CmpIPredicate.slt, ahead, again.upperBound))
        with ir.InsertionPoint(more.then_block):
            for op, buffer in buffers.items():
                _copy(_again(op.operands[0], loop, ahead), buffer, write)
            scf.YieldOp([])
        _commit()  # an empty one at the end, so that a fixed number is under way


def _next(slot: ir.Value, stages: int) -> ir.Value:
    following = arith.addi(slot, constant_index(1))
    is_end = arith.cmpi(arith.CmpIPredicate.eq, following, constant_index(stages))
    return arith.select(is_end, constant_index(0), following)


def _buffer(op: linalg.CopyOp) -> ir.Value:
    """The tile that a copy fills; ``LoweringError`` unless pieces of 16 bytes can go there."""
    source, buffer = op.operands
    kind = ir.MemRefType(buffer.type)
    whole = not isinstance(buffer.owner, ir.Block) and isinstance(
        buffer.owner.opview, memref.AllocOp
    )
    strides, _ = ir.MemRefType(source.type).get_strides_and_offset()
    lanes = _lanes(kind)
    if not whole or strides[-1] != 1 or any(s % lanes for s in [*strides[:-1], kind.shape[-1]]):
        raise LoweringError(
            "an asynchronous copy: expected rows of whole 16 bytes, copied to memory of their own",
            op=str(op),
            location=str(op.location),
        )
    return buffer


def _lanes(kind: ir.MemRefType) -> int:
    """Elements in 16 bytes."""
    return PIECE * 8 // kind.element_type.width


def _multiplied(buffer: ir.Value, stages: int) -> ir.Value:
    """Shared memory for as many tiles like ``buffer``."""
    kind = ir.MemRefType(buffer.type)
    many = memref.alloc(
        in_shared_memory(ir.MemRefType.get([stages, *kind.shape], kind.element_type)), [], []
    )
    if SWIZZLE in buffer.owner.attributes:
        many.owner.attributes[SWIZZLE] = buffer.owner.attributes[SWIZZLE]
    return many


def _slot(buffer: ir.Value, number: ir.Value) -> ir.Value:
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


def _copy(source: ir.Value, buffer: ir.Value, slot: ir.Value | None) -> None:
    """Let the threads of the block copy a tile, 16 bytes each at once."""
    kind = ir.MemRefType(source.type)
    *rows, columns = kind.shape
    lanes = _lanes(kind)
    zero, one = constant_index(0), constant_index(1)
    extents = [constant_index(size) for size in (*rows, columns // lanes)]
    loop = scf.ParallelOp([], [zero] * len(extents), extents, [one] * len(extents), [])
    loop.attributes[ORDERED] = ir.UnitAttr.get()
    index = ir.IndexType.get()
    body = loop.regions[0].blocks.append(*[index] * len(extents), arg_locs=None)
    *at, piece = body.arguments
    with ir.InsertionPoint(body):
        swizzle = swizzle_of(buffer)
        place = swizzle.place(at[-1], piece) if swizzle else piece
        width = constant_index(lanes)
        token = ir.Type.parse("!nvgpu.device.async.token")
        nvgpu.DeviceAsyncCopyOp(
            buffer,
            [*([slot] if slot is not None else []), *at, arith.muli(place, width)],
            source,
            [*at, arith.muli(piece, width)],
            lanes,
            bypassL1=True,
            results=[token],
        )
        scf.ReduceOp([], 0)


def _commit() -> None:
    """End a group of copies."""
    nvvm.CpAsyncCommitGroupOp()


def _wait(groups: int) -> None:
    """Wait until at most so many groups of this thread's copies are under way."""
    nvvm.CpAsyncWaitGroupOp(groups)


def _again(value: ir.Value, loop: scf.ForOp, number: ir.Value) -> ir.Value:
    """``value`` as it is in the iteration of ``loop`` that has ``number``."""
    if value == loop.induction_variable:
        return number
    if isinstance(value.owner, ir.Block) or not _is_in(value.owner, loop):
        return value
    operands = [_again(operand, loop, number) for operand in value.owner.operands]
    copy = value.owner.clone()
    for position, operand in enumerate(operands):
        copy.operands[position] = operand
    return copy.results[list(value.owner.results).index(value)]


def _is_in(op: ir.Operation, loop: scf.ForOp) -> bool:
    parent = op.operation.parent
    while parent is not None and parent != loop.operation:
        parent = parent.parent
    return parent is not None


def _deallocations(buffer: ir.Value) -> list[ir.Operation]:
    return [u.owner.operation for u in buffer.uses if isinstance(u.owner.opview, memref.DeallocOp)]


def _is_slot(value: ir.Value) -> bool:
    return not isinstance(value.owner, ir.Block) and isinstance(
        value.owner.opview, memref.SubViewOp
    )
