"""Blocks that a schedule has mapped to tensor cores, as what each lane of a warp does.

The sums of a warp's tile are spread over its lanes and stay in their registers, from the fill to
the epilogue: a linalg operation on such a tile becomes the work of each lane on the elements
that it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from mlcflow.errors import LoweringError
from mlcflow.gpu import fma, swizzle, warpgroups
from mlcflow.gpu.axes import WARP
from mlcflow.gpu.fragments import (
    Factor,
    Lane,
    lane,
    place_of,
    read_left,
    read_right,
    stack,
    to_tf32,
)
from mlcflow.gpu.hazards import root
from mlcflow.gpu.lane_work import compute_elements, is_reduction, reduce_rows
from mlcflow.gpu.loops import constant_index
from mlcflow.gpu.mma_form import COLUMNS, GPU_FMA, ROWS, WGMMA, MmaForm, mma_form
from mlcflow.gpu.spread import Part, Parts, spread_tiles, users
from mlcflow.mlir import func, ir, memref, nvgpu, scf, vector, walk
from mlcflow.schedule.labels import BIND, INTRINSIC, intrinsic_of


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
                choose = swizzle.for_columns if by_columns else swizzle.for_matrices
                found = (swizzle.for_descriptors if intrinsic_of(op) == WGMMA else choose)(row)
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
    """Replace the marked blocks, and those that work on the same tiles, by loops over lanes."""
    marked = _marked(module)
    parts = spread_tiles(marked)
    behind = {root(op.operands[2]) for op in marked if intrinsic_of(op) == WGMMA}
    for op in dict.fromkeys(op for buffer in parts for op in users(buffer)):
        with op.location:
            if INTRINSIC in op.operation.attributes:
                _by_lanes(op, partial(_multiply, op, parts))
            elif is_reduction(op):
                _by_lanes(op, _after(behind, op, parts, reduce_rows))
            else:
                _by_lanes(op, _after(behind, op, parts, compute_elements))
    for buffer in parts:
        for dealloc in _deallocations(buffer):
            dealloc.erase()


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


def _after(
    behind: set[ir.Value], op: ir.OpView, parts: Parts, work: Callable[..., None]
) -> Callable[[Lane], None]:
    """``work``, when the sums that it reads are there: warpgroups are behind."""
    arguments = op.operation.regions[0].blocks[0].arguments
    operands = zip(op.operation.operands, arguments, strict=True)
    read = {root(value) for value, argument in operands if list(argument.uses)} & behind

    def emit(who: Lane) -> None:
        for buffer in read:
            warpgroups.wait(parts[buffer])
        work(op, parts, who)

    return emit


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


def _multiply(op: ir.OpView, parts: Parts, who: Lane) -> None:
    form = _form(op)
    values = list(op.operation.operands)
    element = ir.MemRefType(values[0].type).element_type
    left, right = (Factor(place_of(value), element, True) for value in values[:2])
    left, right = replace(left, strides=form.strides), replace(right, across=form.is_turned)
    known, held = parts.get(root(values[0])), parts[root(values[2])]
    if intrinsic_of(op) == GPU_FMA:
        fma.multiply(form, known, right, held, who)
        return
    if intrinsic_of(op) == WGMMA:
        warpgroups.multiply(op, form, (left.place, right.place), held)
        return
    apart = known is not None and form.kind == "f32"
    rounded = to_tf32 if form.kind == "f32" else lambda registers: registers
    tiles_m, tiles_n = range(form.m // ROWS), range(form.n // COLUMNS)
    for k in range(0, form.k, form.depth):
        depth = min(form.depth, form.k - k)
        rows = [
            rounded(known.left(m, k) if known else read_left(left, who, m * ROWS, k, depth))
            for m in tiles_m
        ]
        columns = [
            rounded(registers)
            for n in tiles_n[::2]
            for registers in read_right(
                right, who, n * COLUMNS, k, depth, tiles=len(tiles_n[n : n + 2]), neighbours=apart
            )
        ]
        for m in tiles_m:
            for n in tiles_n:
                _multiply_tile(rows[m], columns[n], held, (m, n), form)


def _multiply_tile(
    a: ir.Value, b: ir.Value, held: Part, tile: tuple[int, int], form: MmaForm
) -> None:
    sums = stack([held.pair(*tile, half) for half in (0, 1)])
    shape = [ROWS, COLUMNS, form.depth]
    tf32 = {"tf32Enabled": True} if form.kind == "f32" else {}
    found = nvgpu.MmaSyncOp(sums.type, a, b, sums, shape, **tf32).res
    for half in (0, 1):
        vector.store(vector.extract(found, [], [half]), held.memory, held.at(*tile, half, 0))
