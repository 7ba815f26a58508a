"""Copies to shared memory that go on while the block computes.

``mlcflow.stages`` on a ``linalg.copy`` says that it may: tiles for later iterations of the loop
around it are under way (``cp.async``) while the one of this iteration is worked on. Upstream's
``transform.nvgpu.pipeline_shared_memory_copies`` wants loops of single threads with groups and
multiple buffers already made; here the copy is still one operation of the whole block.
"""

from __future__ import annotations

from mlcflow.gpu import tensor_copies
from mlcflow.gpu.axes import axis_of
from mlcflow.gpu.hazards import ORDERED, access_of
from mlcflow.gpu.loops import constant_index
from mlcflow.gpu.memory import in_shared_memory, put_views_in_shared_memory
from mlcflow.gpu.mma_form import WGMMA
from mlcflow.gpu.swizzle import swizzle_of
from mlcflow.gpu.turns import (
    STAGES,
    Buffers,
    at_iteration,
    first_iterations,
    lanes_of,
    many,
    next_slot,
    stages_of,
    take_over,
    tile_of,
)
from mlcflow.mlir import arith, func, gpu, ir, linalg, nvgpu, nvvm, scf, walk
from mlcflow.schedule.labels import constant, intrinsic_of, trip_count


def pipeline_copies(module: ir.Module) -> None:
    """Make the marked copies of a module asynchronous, and their buffers as many as stages.

    In each iteration of the loop: wait for its tiles, wait for the other threads, begin to copy
    the tiles of a later iteration over those of the last one, compute. Where warpgroups compute,
    they are asked first, and awaited when the copies have begun.
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
                is_loop = isinstance(loop, scf.ForOp) and not loop.results and not axis_of(loop)
                if not is_loop or trip_count(loop) in (0, 1):
                    _copy_once(copies)
                elif tensor_copies.is_wanted(copies):
                    tensor_copies.pipeline(loop, copies)
                else:
                    _pipeline(loop, copies)


def _copy_once(copies: list[linalg.CopyOp]) -> None:
    """Without a loop around them: copy, and wait before a tile is needed."""
    for user in dict.fromkeys(_first_user(op) for op in copies):
        with ir.InsertionPoint(user):
            _commit()
            _wait(0)
            _show(copies)
    for op in copies:
        buffer = tile_of(op)
        buffer.set_type(in_shared_memory(ir.MemRefType(buffer.type)))
        put_views_in_shared_memory(buffer)
        with ir.InsertionPoint(op):
            _copy(op.operands[0], buffer, None)
        op.operation.erase()


def _first_user(copy: linalg.CopyOp) -> ir.OpView:
    """What in the block of a copy comes first behind it and works on its tile."""
    tile, block = tile_of(copy), list(copy.operation.block.operations)
    for op in block[block.index(copy) + 1 :]:
        access = access_of(op)
        if tile in access.reads | access.writes:
            return op
    return block[-1]


def _pipeline(loop: scf.ForOp, copies: list[linalg.CopyOp]) -> None:
    stages, by_warpgroups = stages_of(loop, copies), _is_by_warpgroups(copies)
    ahead = stages - 1
    with ir.InsertionPoint(loop):
        buffers = {op: many(op, stages) for op in copies}
        for number, value in enumerate(first_iterations(loop, ahead)):
            slot = constant_index(number)
            for op, buffer in buffers.items():
                _copy(at_iteration(op.operands[0], loop, value), buffer, slot)
            _commit()
        # The tile that is read, and where the next one goes.
        start = [constant_index(0), constant_index(ahead)]
        again = scf.ForOp(loop.lowerBound, loop.upperBound, loop.step, start)
    again.attributes[ORDERED] = ir.UnitAttr.get()
    read, write = again.inner_iter_args
    begin = _in_turn(loop, again, buffers, ahead)
    with ir.InsertionPoint(again.body):
        carried = [next_slot(slot, stages) for slot in (read, write)]
    end = take_over(loop, again, buffers, read, carried)
    if by_warpgroups:
        for op in begin:
            op.operation.move_before(end.operation)
        with ir.InsertionPoint(end):
            nvvm.WgmmaWaitGroupSyncOp(0)


def _in_turn(loop: scf.ForOp, again: scf.ForOp, buffers: Buffers, ahead: int) -> list[ir.OpView]:
    """What an iteration does beside computing; gives the part that begins to copy."""
    write = again.inner_iter_args[1]
    with ir.InsertionPoint(again.body):
        _wait(ahead - 1)
        _show(list(buffers))
        gpu.BarrierOp()
        step = constant(loop.step) or 1
        later = arith.addi(again.induction_variable, constant_index(ahead * step))
        more = scf.IfOp(arith.cmpi(arith.CmpIPredicate.slt, later, again.upperBound))
        with ir.InsertionPoint(more.then_block):
            for op, buffer in buffers.items():
                _copy(at_iteration(op.operands[0], loop, later), buffer, write)
            scf.YieldOp([])
        # An empty group at the end, so that a fixed number is under way.
        return [more, _commit()]


def _copy(source: ir.Value, buffer: ir.Value, slot: ir.Value | None) -> None:
    """Let the threads of the block copy a tile, 16 bytes each at once."""
    kind = ir.MemRefType(source.type)
    *rows, columns = kind.shape
    lanes = lanes_of(kind)
    zero, one = constant_index(0), constant_index(1)
    extents = [constant_index(size) for size in (*rows, columns // lanes)]
    loop = scf.ParallelOp([], [zero] * len(extents), extents, [one] * len(extents), [])
    loop.attributes[ORDERED] = ir.UnitAttr.get()
    index = ir.IndexType.get()
    body = loop.regions[0].blocks.append(*[index] * len(extents), arg_locs=None)
    *at, piece = body.arguments
    with ir.InsertionPoint(body):
        swizzle = swizzle_of(buffer)
        row, place = swizzle.place(at[-1], piece, rows[-1]) if swizzle else (at[-1], piece)
        width = constant_index(lanes)
        token = ir.Type.parse("!nvgpu.device.async.token")
        nvgpu.DeviceAsyncCopyOp(
            buffer,
            [*([slot] if slot is not None else []), *at[:-1], row, arith.muli(place, width)],
            source,
            [*at, arith.muli(piece, width)],
            lanes,
            bypassL1=True,
            results=[token],
        )
        scf.ReduceOp([], 0)


def _commit() -> ir.OpView:
    """End a group of copies."""
    return nvvm.CpAsyncCommitGroupOp()


def _wait(groups: int) -> None:
    """Wait until at most so many groups of this thread's copies are under way."""
    nvvm.CpAsyncWaitGroupOp(groups)


def _is_by_warpgroups(copies: list[linalg.CopyOp]) -> bool:
    """Whether what is copied is multiplied by warpgroups."""
    body = copies[0].operation.block
    work = [inner for op in body.operations for inner in [op, *walk(op)]]
    return any(intrinsic_of(op) == WGMMA for op in work)


def _show(copies: list[linalg.CopyOp]) -> None:
    """Let the instructions of warpgroups see what this thread has copied."""
    if _is_by_warpgroups(copies):
        kind = ir.Attribute.parse("#nvvm.proxy_kind<async.shared>")
        nvvm.FenceProxyOp(kind, space=ir.Attribute.parse("#nvvm.shared_space<cta>"))
