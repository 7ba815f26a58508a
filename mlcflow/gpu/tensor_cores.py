"""Blocks that a schedule has mapped to tensor cores, as what each lane of a warp does.

The sums of a warp's tile are spread over its lanes and stay in their registers, from the fill to
the epilogue: a linalg operation on such a tile becomes the work of each lane on the elements
that it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mlcflow.errors import LoweringError
from mlcflow.gpu import swizzle
from mlcflow.gpu.axes import WARP
from mlcflow.gpu.fragments import (
    Factor,
    Lane,
    lane,
    place_of,
    read_left,
    read_right,
    stack,
    sums_at,
    to_tf32,
)
from mlcflow.gpu.hazards import root
from mlcflow.gpu.loops import constant_index, spread_over
from mlcflow.gpu.memory import OWN
from mlcflow.gpu.mma_form import COLUMNS, ROWS, MmaForm, mma_form
from mlcflow.graph.kernel import loop_extents
from mlcflow.graph.linalg_ops import indexing_maps
from mlcflow.mlir import arith, func, ir, linalg, memref, nvgpu, scf, vector, walk
from mlcflow.schedule.labels import BIND, INTRINSIC


@dataclass(frozen=True)
class Sums:
    """The sums of a warp's tile that one lane holds: 4 of each 16 x 8 tile, two a vector."""

    memory: ir.Value
    columns: int

    def row(self, m: int, n: int, half: int) -> int:
        """The number of a pair of sums: of tile ``m``, ``n``, its upper or lower half."""
        return (m * (self.columns // COLUMNS) + n) * 2 + half


def mark_swizzles(module: ir.Module) -> None:
    """Note on the tiles that only tensor cores read how their rows are to be laid out."""
    for op in _marked(module):
        form = _form(op)
        for number, factor in enumerate(list(op.operation.operands)[:2]):
            buffer = root(factor)
            if not isinstance(buffer.owner, ir.Block) and _only_copied_and_multiplied(buffer):
                kind = ir.MemRefType(buffer.type)
                row = kind.shape[-1] * kind.element_type.width // 8
                by_columns = number == 1 and form.kind == "f32" and not form.is_turned
                found = (swizzle.for_columns if by_columns else swizzle.for_matrices)(row)
                if found:
                    buffer.owner.attributes[swizzle.SWIZZLE] = found.attribute()


def _only_copied_and_multiplied(value: ir.Value) -> bool:
    for use in value.uses:
        op = use.owner.opview
        if isinstance(op, memref.SubViewOp):
            if not _only_copied_and_multiplied(op.result):
                return False
        elif "mlcflow.stages" not in op.operation.attributes and not (
            INTRINSIC in op.operation.attributes or isinstance(op, memref.DeallocOp)
        ):
            return False
    return True


def to_tensor_cores(module: ir.Module) -> None:
    """Replace the marked blocks, and those that share their sums, by loops over lanes."""
    sums: dict[ir.Value, Sums] = {}
    for op in _marked(module):
        buffer = root(op.operation.operands[2])
        if buffer not in sums:
            sums[buffer] = _spread(buffer, _form(op))
    for buffer, held in sums.items():
        for op in _users(buffer):
            with op.location:
                if INTRINSIC in op.operation.attributes:
                    _by_lanes(op, partial(_multiply, op, held))
                elif op.operation.name == "linalg.fill":
                    _by_lanes(op, partial(_fill, op, held))
                else:
                    _by_lanes(op, partial(_elementwise, op, buffer, held))
        for op in _deallocations(buffer):
            op.erase()


def _marked(module: ir.Module) -> list[ir.OpView]:
    return [
        op
        for function in module.body.operations
        if isinstance(function, func.FuncOp)
        for op in walk(function)
        if INTRINSIC in op.operation.attributes
    ]


def _form(op: ir.OpView) -> MmaForm:
    form = mma_form(op)
    if isinstance(form, str):
        raise LoweringError(form, op=str(op).split("\n")[0], location=str(op.location))
    return form


def _spread(buffer: ir.Value, form: MmaForm) -> Sums:
    """Registers for the sums in ``buffer`` of one lane; ``LoweringError`` if others need them."""
    if isinstance(buffer.owner, ir.Block) or not isinstance(buffer.owner.opview, memref.AllocOp):
        raise LoweringError(
            "tensor cores add to what is not made in the loops of the block; "
            "give the block a result of its own by cache_write"
        )
    with ir.InsertionPoint(buffer.owner), buffer.owner.location:
        pairs = form.m * form.n // WARP // 2
        own = memref.alloc(ir.MemRefType.get([pairs, 2], ir.F32Type.get()), [], [])
    own.owner.attributes[OWN] = ir.UnitAttr.get()
    for op in _users(buffer):
        shapes = {tuple(_matrix(v)) for v in op.operation.operands if _is_part(v, buffer)}
        if shapes != {(form.m, form.n)}:
            raise LoweringError(
                f"the sums of a warp are {form.m} x {form.n}; expected every block that reads or "
                f"writes them to do so by such tiles, found {sorted(shapes)}",
                op=str(op).split("\n")[0],
            )
    return Sums(own, form.n)


def _is_part(value: ir.Value, buffer: ir.Value) -> bool:
    return isinstance(value.type, ir.MemRefType) and root(value) == buffer


def _matrix(value: ir.Value) -> list[int]:
    """Rows, over all dimensions but the last, and columns of a view."""
    *rows, columns = ir.MemRefType(value.type).shape
    return [math.prod(rows), columns]


def _users(value: ir.Value) -> list[ir.OpView]:
    """The linalg operations on a buffer, through its views."""
    found: list[ir.OpView] = []
    for use in value.uses:
        op = use.owner.opview
        if isinstance(op, memref.SubViewOp):
            found += _users(op.result)
        elif op.operation.name.startswith("linalg."):
            found.append(op)
        elif not isinstance(op, memref.DeallocOp):
            raise LoweringError(
                "the sums of tensor cores can only be worked on by linalg operations",
                op=str(op),
                location=str(op.location),
            )
    return list(dict.fromkeys(found))


def _deallocations(buffer: ir.Value) -> list[ir.Operation]:
    return [u.owner.operation for u in buffer.uses if isinstance(u.owner.opview, memref.DeallocOp)]


def _by_lanes(op: ir.OpView, emit: Callable[[Lane], None]) -> None:
    """Put a loop over the lanes of a warp, bound to thread.x, in the place of ``op``."""
    with ir.InsertionPoint(op):
        loop = scf.ForOp(constant_index(0), constant_index(WARP), constant_index(1))
        loop.attributes[BIND] = ir.StringAttr.get("thread.x")
        with ir.InsertionPoint(loop.body):
            emit(lane(loop.induction_variable))
            scf.YieldOp([])
    op.operation.erase()


def _fill(op: ir.OpView, held: Sums, who: Lane) -> None:
    value = op.operation.operands[0]
    kind = ir.VectorType.get([2], ir.F32Type.get())
    pair = vector.broadcast(kind, value)
    for number in range(ir.MemRefType(held.memory.type).shape[0]):
        vector.store(pair, held.memory, [constant_index(number), constant_index(0)])


def _multiply(op: ir.OpView, held: Sums, who: Lane) -> None:
    form = _form(op)
    element = ir.MemRefType(op.operation.operands[0].type).element_type
    a, b = (place_of(value) for value in list(op.operation.operands)[:2])
    left, right = Factor(a, element, True), Factor(b, element, form.is_turned)
    rounded = to_tf32 if form.kind == "f32" else lambda registers: registers
    tiles_m, tiles_n = range(form.m // ROWS), range(form.n // COLUMNS)
    for k in range(0, form.k, form.depth):
        rows = [rounded(read_left(left, who, m * ROWS, k, form.depth)) for m in tiles_m]
        columns = [
            rounded(registers)
            for n in tiles_n[::2]
            for registers in read_right(right, who, n * COLUMNS, k, form.depth)
        ]
        for m in tiles_m:
            for n in tiles_n:
                _multiply_tile(rows[m], columns[n], held, (m, n), form)


def _multiply_tile(
    a: ir.Value, b: ir.Value, held: Sums, tile: tuple[int, int], form: MmaForm
) -> None:
    zero = constant_index(0)
    pair = ir.VectorType.get([2], ir.F32Type.get())
    places = [constant_index(held.row(*tile, half)) for half in (0, 1)]
    sums = stack([vector.load(pair, held.memory, [place, zero]) for place in places])
    shape = [ROWS, COLUMNS, form.depth]
    tf32 = {"tf32Enabled": True} if form.kind == "f32" else {}
    found = nvgpu.MmaSyncOp(sums.type, a, b, sums, shape, **tf32).res
    for half, place in enumerate(places):
        vector.store(vector.extract(found, [], [half]), held.memory, [place, zero])


def _elementwise(op: ir.OpView, buffer: ir.Value, held: Sums, who: Lane) -> None:
    """Compute the elements of the tile that the lane holds."""
    values = list(op.operation.operands)
    rows, columns = _matrix(next(v for v in values if _is_part(v, buffer)))
    at = sums_at(who)
    for m in range(rows // ROWS):
        for n in range(columns // COLUMNS):
            for number, (row, column) in enumerate(at):
                below, right = constant_index(m * ROWS), constant_index(n * COLUMNS)
                where = [arith.addi(row, below), arith.addi(column, right)]
                half, side = divmod(number, 2)
                sums = [constant_index(held.row(m, n, half)), constant_index(side)]
                _one_element(op, buffer, held, where, sums)


def _one_element(
    op: ir.OpView, buffer: ir.Value, held: Sums, where: list[ir.Value], sums: list[ir.Value]
) -> None:
    maps = indexing_maps(op)
    position = [*spread_over(where[0], loop_extents(op)[:-1]), where[1]]
    values = list(op.operation.operands)
    count = 1  # of results: what a linalg operation on memory writes comes last
    body = op.operation.regions[0].blocks[0]
    known: dict[ir.Value, ir.Value] = {}

    def element(number: int) -> tuple[ir.Value, list[ir.Value]]:
        value = values[number]
        if _is_part(value, buffer):
            return held.memory, sums
        return value, [_index(each, position) for each in maps[number].results]

    for number, argument in enumerate(body.arguments):
        if not isinstance(values[number].type, ir.MemRefType):
            known[argument] = values[number]
        elif list(argument.uses):
            known[argument] = memref.load(*element(number))
    for inner in list(body.operations):
        operands = [known.get(operand, operand) for operand in inner.operation.operands]
        if inner.operation.name == "linalg.yield":
            for number, value in enumerate(operands):
                memory, at = element(len(values) - len(operands) + number)
                memref.store(value, memory, at)
            assert len(operands) == count
        elif isinstance(inner, linalg.IndexOp):
            known[inner.result] = position[ir.IntegerAttr(inner.attributes["dim"]).value]
        else:
            copy = inner.operation.clone()
            for place, operand in enumerate(operands):
                copy.operands[place] = operand
            for old, new in zip(inner.operation.results, copy.results, strict=True):
                known[old] = new


def _index(expression: ir.AffineExpr, position: list[ir.Value]) -> ir.Value:
    if isinstance(expression, ir.AffineDimExpr):
        return position[expression.position]
    return constant_index(ir.AffineConstantExpr(expression).value)
