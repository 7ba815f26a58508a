"""Copies of whole tiles by the chip itself (TMA, sm_90): a single thread asks for them.

``mlcflow.by = "tma"`` on a ``linalg.copy`` with stages, in a loop whose tiles warpgroups multiply.
Each of the tiles that take turns has two barriers in shared memory (PTX ISA, "mbarrier"): *full*
when all bytes of it have come, *free* when all warps have multiplied it. So warpgroups do not
wait for each other, and one keeps the tensor cores busy while another comes to its end.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlcflow.errors import LoweringError
from mlcflow.gpu.axes import axis_of
from mlcflow.gpu.fragments import Place, place_of
from mlcflow.gpu.hazards import ORDERED
from mlcflow.gpu.loops import constant_index
from mlcflow.gpu.memory import size_of
from mlcflow.gpu.swizzle import PIECE, swizzle_of
from mlcflow.gpu.turns import (
    Buffers,
    at_iteration,
    first_iterations,
    many,
    next_slot,
    stages_of,
    take_over,
)
from mlcflow.gpu.warpgroups import warps_along
from mlcflow.mlir import arith, builtin, func, gpu, ir, linalg, llvm, memref, nvgpu, nvvm, scf
from mlcflow.schedule.labels import BIND, constant, enclosing

BY = "mlcflow.by"
"""On a copy with stages: what copies, ``"tma"`` or nothing for the threads of the block."""
TMA = "tma"

_GENERIC, _SHARED, _CLUSTER = "!llvm.ptr", "!llvm.ptr<3>", "!llvm.ptr<7>"
_TICKS = 10_000_000
"""Nanoseconds that a thread may sleep before it looks again whether a barrier is reached."""
_BARRIER_BYTES = 8


def is_wanted(copies: list[linalg.CopyOp]) -> bool:
    """Whether these copies of a loop are to be made by the chip."""
    found = {_by(op) for op in copies}
    if len(found) > 1:
        raise LoweringError(
            f'the copies of a loop: expected all of them, or none, by "{TMA}", found {found}',
            op=str(copies[0]),
            location=str(copies[0].location),
        )
    return found == {TMA}


def _by(op: linalg.CopyOp) -> str:
    return ir.StringAttr(op.attributes[BY]).value if BY in op.attributes else ""


def pipeline(loop: scf.ForOp, copies: list[linalg.CopyOp]) -> None:
    """Ask for the tiles of later iterations while one is multiplied.

    In each iteration: wait until its tiles are full, multiply them; one thread waits until those
    of the last iteration are free, and asks for others in their place. Raises ``LoweringError``
    for what the chip cannot copy.
    """
    if any(not axis_of(around) for around in enclosing(loop)):
        raise LoweringError(
            "copies of the chip: expected a loop around which there are only those of blocks: its "
            "barriers are made once",
            op=str(loop).split("\n")[0],
            location=str(loop.location),
        )
    stages = stages_of(loop, copies)
    ahead, (axis, warps) = stages - 1, _warps(copies[0])
    with ir.InsertionPoint(loop):
        tiles = _Tiles({op: many(op, stages) for op in copies}, loop, _maps(copies))
        barriers = _Barriers(memref.alloc(_words(2 * stages), [], []), stages)
        barriers.begin(warps)
        for number, value in enumerate(first_iterations(loop, ahead)):
            tiles.ask(value, constant_index(number), barriers)
        start = [constant_index(0), constant_index(ahead), _i32(0), _i32(1)]
        again = scf.ForOp(loop.lowerBound, loop.upperBound, loop.step, start)
    again.attributes[ORDERED] = ir.UnitAttr.get()
    read, write, turn, before = again.inner_iter_args
    with ir.InsertionPoint(again.body):
        barriers.wait(barriers.full(read), turn)
        later = _plus(again.induction_variable, ahead * (constant(loop.step) or 1))
        more = scf.IfOp(arith.cmpi(arith.CmpIPredicate.slt, later, again.upperBound))
        with ir.InsertionPoint(more.then_block):
            barriers.wait(barriers.free(write), before)
            tiles.ask(later, write, barriers)
            scf.YieldOp([])
        following = next_slot(read, stages)
        is_first = arith.cmpi(arith.CmpIPredicate.eq, following, constant_index(0))
        other = arith.select(is_first, arith.xori(turn, _i32(1)), turn)
        carried = [following, next_slot(write, stages), other, turn]
    end = take_over(loop, again, tiles.buffers, read, carried)
    more.operation.move_before(end.operation)  # when the product has been asked for
    with ir.InsertionPoint(end):
        nvvm.WgmmaWaitGroupSyncOp(0)
        each = scf.ForOp(constant_index(0), constant_index(warps), constant_index(1))
        each.attributes[BIND] = ir.StringAttr.get(axis)
        with ir.InsertionPoint(each.body):
            i64 = ir.IntegerType.get_signless(64)
            nvvm.MBarrierArriveOp(barriers.free(read), results=[i64])
            scf.YieldOp([])


def _warps(op: linalg.CopyOp) -> tuple[str, int]:
    """The axis along which the block has its warps, and how many."""
    found = warps_along(op)
    if len(found) != 1:
        raise LoweringError(
            f"copies of the chip: expected warps along one axis of threads, found {found}",
            op=str(op),
            location=str(op.location),
        )
    return next(iter(found.items()))


@dataclass(frozen=True)
class _Barriers:
    """Barriers in shared memory, two for each tile."""

    memory: ir.Value
    stages: int

    def full(self, slot: ir.Value) -> ir.Value:
        """Of tile ``slot``: reached when its bytes have come."""
        return _pointer(self.memory, arith.muli(slot, constant_index(_BARRIER_BYTES)), _SHARED)

    def free(self, slot: ir.Value) -> ir.Value:
        """Of tile ``slot``: reached when all warps have read it."""
        return self.full(_plus(slot, self.stages))

    def begin(self, warps: int) -> None:
        """Make them: one thread, for all."""
        for number in range(2 * self.stages):
            arrivals = _i32(1 if number < self.stages else warps)
            nvvm.MBarrierInitOp(self.full(constant_index(number)), arrivals)
        nvvm.FenceMbarrierInitOp()
        gpu.BarrierOp()

    def wait(self, barrier: ir.Value, turn: ir.Value) -> None:
        """Until the turn of a barrier that is even, or odd, is over; the one before its first is
        over and odd.
        """
        nvvm.MBarrierTryWaitParityOp(barrier, turn, _i32(_TICKS))


@dataclass(frozen=True)
class _Tiles:
    """What the copies of ``loop`` fill, and how the chip finds what they read."""

    buffers: Buffers
    loop: scf.ForOp
    maps: dict[linalg.CopyOp, ir.Value]

    def ask(self, number: ir.Value, slot: ir.Value, barriers: _Barriers) -> None:
        """Ask for the tiles of iteration ``number``."""
        full = barriers.full(slot)
        nbytes = sum(_tile_bytes(op) for op in self.buffers)
        nvvm.MBarrierArriveExpectTxOp(full, _i32(nbytes))
        for op, buffer in self.buffers.items():
            place = place_of(at_iteration(op.operands[0], self.loop, number))
            rows, columns, line = _shape(buffer)
            begins = [begin or constant_index(0) for begin in place.begins]
            start = arith.muli(slot, constant_index(_tile_bytes(op)))
            for part in range(columns // line):
                at = [*begins[:-1], _plus(begins[-1], part * line)]
                to = _plus(start, part * rows * line * _element_bytes(buffer))
                i32 = ir.IntegerType.get_signless(32)
                where = [arith.index_cast(i32, index) for index in reversed(at)]
                tile = _pointer(buffer, to, _CLUSTER)
                nvvm.CpAsyncBulkTensorGlobalToSharedClusterOp(tile, self.maps[op], where, full, [])


def _maps(copies: list[linalg.CopyOp]) -> dict[linalg.CopyOp, ir.Value]:
    """Descriptions of the arrays that are read, made by the host."""
    found = {}
    for op in copies:
        place = place_of(op.operands[0])
        problem = _why_not(op, place)
        if problem:
            raise LoweringError(
                f"copies of the chip: {problem}", op=str(op), location=str(op.location)
            )
        pointer = ir.Type.parse(_GENERIC)
        described = _describe(place.buffer, op.operands[1])
        found[op] = builtin.unrealized_conversion_cast([pointer], [described])
    return found


def _why_not(op: linalg.CopyOp, place: Place) -> str:
    array, own = place.buffer, place.own
    kind = ir.MemRefType(array.type)
    if not isinstance(array.owner, ir.Block) or not isinstance(array.owner.owner, func.FuncOp):
        return "expected to read an argument of the kernel"
    strides, _ = kind.get_strides_and_offset()
    nbytes = _element_bytes(array)
    if not kind.has_static_shape or kind.affine_map != ir.AffineMap.get_identity(kind.rank):
        return f"expected an array of known shape, found {kind}"
    if any(stride * nbytes % PIECE for stride in strides[:-1]):
        return f"expected rows of whole {PIECE} bytes, found {kind}"
    if own[-2:] != (kind.rank - 2, kind.rank - 1) or any(size != 1 for size in place.sizes[:-2]):
        return f"expected a tile of the last two dimensions, found {place.sizes}"
    if swizzle_of(op.operands[1]) is None:
        return "expected tiles that warpgroups multiply"
    return ""


def _describe(array: ir.Value, tile: ir.Value) -> ir.Value:
    """``nvgpu.tma.create.descriptor`` where the kernel begins: on the host."""
    kind = ir.MemRefType(array.type)
    rows, _, line = _shape(tile)
    box = [*[1] * (kind.rank - 2), rows, line]
    sizes = "x".join(map(str, box))
    shared = f"memref<{sizes}x{kind.element_type}, #gpu.address_space<workgroup>>"
    name = f"swizzle_{line * _element_bytes(array)}b"
    text = (
        f"!nvgpu.tensormap.descriptor<tensor = {shared}, swizzle = {name}, "
        "l2promo = l2promo_128b, oob = zero, interleave = none>"
    )
    with ir.InsertionPoint.at_block_begin(array.owner):
        unranked = ir.UnrankedMemRefType.get(kind.element_type, None)
        whole = memref.cast(unranked, array)
        extents = [constant_index(size) for size in box]
        return nvgpu.TmaCreateDescriptorOp(ir.Type.parse(text), whole, extents).tensorMap


def _shape(tile: ir.Value) -> tuple[int, int, int]:
    """Rows and columns of a tile, and the columns that lie in a line of it."""
    kind, swizzle = ir.MemRefType(tile.type), swizzle_of(tile)
    assert swizzle is not None
    return kind.shape[-2], kind.shape[-1], swizzle.pieces * PIECE // _element_bytes(tile)


def _tile_bytes(op: linalg.CopyOp) -> int:
    return size_of(ir.MemRefType(op.operands[1].type))


def _element_bytes(array: ir.Value) -> int:
    return int(ir.MemRefType(array.type).element_type.width) // 8


def _words(count: int) -> ir.MemRefType:
    return ir.MemRefType.get([count], ir.IntegerType.get_signless(64))


def _pointer(memory: ir.Value, offset: ir.Value, kind: str) -> ir.Value:
    """An address in shared memory, as the operations of the chip take it."""
    at = arith.addi(memref.extract_aligned_pointer_as_index(memory), offset)
    word = arith.index_cast(ir.IntegerType.get_signless(64), at)
    return llvm.inttoptr(ir.Type.parse(kind), word)


def _plus(value: ir.Value, number: int) -> ir.Value:
    return arith.addi(value, constant_index(number)) if number else value


def _i32(value: int) -> ir.Value:
    return arith.constant(ir.IntegerType.get_signless(32), value)
