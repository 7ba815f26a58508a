"""Products of matrices by the four warps of a warpgroup: ``wgmma``, of sm_90a.

``wgmma.mma_async`` multiplies 64 rows of A by up to 256 columns of B, both of which it reads from
shared memory by itself while the warps go on. Warp ``w`` of the four holds rows ``16 w`` to
``16 w + 15`` of the sums, spread over its lanes as ``mma.sync`` has them; so a schedule gives each
warp 16 rows, and all but the product is what it is on other chips (PTX ISA, "Asynchronous
warpgroup level matrix instructions", "Matrix descriptor").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

from mlcflow.errors import LoweringError
from mlcflow.gpu.axes import axis_of
from mlcflow.gpu.fragments import Place
from mlcflow.gpu.loops import constant_index
from mlcflow.gpu.mma_form import COLUMNS, ROWS, MmaForm
from mlcflow.gpu.spread import Part
from mlcflow.gpu.swizzle import for_descriptors, swizzle_of
from mlcflow.mlir import arith, ir, llvm, memref, nvvm, vector, walk
from mlcflow.schedule.labels import trip_count

_WARPS = 4
_WINDOW = (1 << 18) - 1
"""The bits of an address in shared memory."""
_MODES = {128: 1, 64: 2, 32: 3}
"""What a descriptor calls the swizzle of lines of so many bytes."""
_LINES, _LINE = 8, 128
"""How many lines are swizzled together, and the bytes of the longest."""


def multiply(op: ir.OpView, form: MmaForm, factors: tuple[Place, Place], held: Part) -> None:
    """Ask for ``held += A * B``, which is there after :func:`wait`.

    Raises ``LoweringError`` unless the warps of a group have the rows of an instruction, and
    the factors lie in shared memory as it reads them.
    """
    problem = _why_not(op, form, factors)
    if problem:
        raise LoweringError(
            f"the instructions of a warpgroup: {problem}",
            op=str(op).split("\n")[0],
            location=str(op.location),
        )
    left, right = _left(factors[0]), _right(factors[1], form)
    sums = _tied("wgmma.fence.sync.aligned;", held)
    for k in range(0, form.k, form.depth):
        sums = _multiply_part(form, sums, left.at(k), right.at(k), held)
    nvvm.WgmmaGroupSyncAlignedOp()
    _keep(sums, held)


def wait(held: Part) -> None:
    """Wait for all that was asked for."""
    _keep(_tied("wgmma.wait_group.sync.aligned 0;", held), held)


def _tied(text: str, held: Part) -> ir.Value:
    """An instruction that takes the sums and gives them back: what writes them cannot come after
    it, and what reads them not before.
    """
    values = _registers(held)
    constraints = ["=f"] * len(values) + [str(number) for number in range(len(values))]
    kind = _struct(held)
    return llvm.InlineAsmOp(kind, values, text, ",".join(constraints), has_side_effects=True).res


def _multiply_part(
    form: MmaForm, sums: ir.Value, left: ir.Value, right: ir.Value, held: Part
) -> ir.Value:
    shape = f"#nvvm.shape<m = {ROWS * _WARPS}, n = {held.columns}, k = {form.depth}>"
    names = {
        "shape": shape,
        "typeA": f"#nvvm.wgmma_type<{form.kind}>",
        "typeB": f"#nvvm.wgmma_type<{form.kind}>",
        "typeD": "#nvvm.wgmma_type<f32>",
        "scaleD": "#nvvm.wgmma_scale_out<one>",
        "scaleA": "#nvvm.wgmma_scale_in<one>",
        "scaleB": "#nvvm.wgmma_scale_in<one>",
        "layoutA": "#nvvm.mma_layout<row>",
        "layoutB": f"#nvvm.mma_layout<{'col' if form.is_turned else 'row'}>",
    }
    attributes = {name: ir.Attribute.parse(text) for name, text in names.items()}
    return nvvm.WgmmaMmaAsyncOp(sums.type, sums, left, right, **attributes).results_


def _why_not(op: ir.OpView, form: MmaForm, factors: tuple[Place, Place]) -> str:
    warps = warps_along(op)
    if form.m != ROWS or len(warps) != 1 or next(iter(warps.values())) % _WARPS:
        return (
            f"expected {ROWS} rows for each warp, and {_WARPS} warps, or a multiple, along one "
            f"axis of threads, found {form.m} rows and warps along {warps or 'none'}"
        )
    if form.strides != (1,):
        return f"expected rows next to each other, found every {form.strides}"
    for name, place in zip("AB", factors, strict=True):
        kind = ir.MemRefType(place.buffer.type)
        row = kind.shape[-1] * kind.element_type.width // 8
        if "workgroup" not in str(kind.memory_space):
            return f"expected {name} in shared memory: cache_read it, with stages"
        if swizzle_of(place.buffer) != for_descriptors(row) or for_descriptors(row) is None:
            return f"expected rows of {name} of 32, 64 or a multiple of 128 bytes, found {row}"
        if math.prod(kind.shape[-2:]) * kind.element_type.width // 8 % (_LINES * min(row, _LINE)):
            return f"expected a multiple of {_LINES} rows of {name}, found {kind.shape[-2]}"
        across = name == "A" or form.is_turned
        if across and row not in _MODES:
            return f"expected up to 128 bytes of {name} along the reduction, found {row}"
        if place.begins[place.own[-1]] is not None:
            return f"expected whole rows of {name}"
    return ""


def warps_along(op: ir.OpView) -> dict[str, int]:
    """The axes along which the block has several warps; a lane is to become thread.x."""
    top = op.operation
    while top.parent is not None and top.parent.name != "func.func":
        top = top.parent
    loops = [loop for loop in [top.opview, *walk(top.opview)] if axis_of(loop).startswith("thread")]
    extents = {axis_of(loop): trip_count(loop) for loop in loops}
    return {axis: size for axis, size in extents.items() if axis != "thread.x" and size > 1}


@dataclass(frozen=True)
class _Tile:
    """A tile in shared memory: the descriptor of its beginning, and the bytes from there to what
    is one step of the reduction further.
    """

    begin: ir.Value
    step: int

    def at(self, k: int) -> ir.Value:
        """The descriptor of what begins at step ``k``."""
        return _plus(self.begin, k * self.step >> 4) if k else self.begin


def _left(place: Place) -> _Tile:
    """A[m, k], of the rows that the warps of a group have together."""
    line = _row_bytes(place)
    rows = constant_index(ROWS * _WARPS)
    begin = place.begins[place.own[-2]] or constant_index(0)
    first = arith.muli(arith.divui(begin, rows), rows)
    return _Tile(_descriptor(_address(place, first), line, line), _element_bytes(place))


def _right(place: Place, form: MmaForm) -> _Tile:
    """B[k, n], cut into parts of 128 bytes of n below each other; or B[n, k]."""
    address = _address(place, place.begins[place.own[-2]])
    line = min(_row_bytes(place), _LINE)
    if form.is_turned:
        return _Tile(_descriptor(address, line, line), _element_bytes(place))
    part = ir.MemRefType(place.buffer.type).shape[-2] * line
    return _Tile(_descriptor(address, line, part), line)


def _row_bytes(place: Place) -> int:
    return int(ir.MemRefType(place.buffer.type).shape[-1]) * _element_bytes(place)


def _element_bytes(place: Place) -> int:
    return int(ir.MemRefType(place.buffer.type).element_type.width) // 8


def _address(place: Place, row: ir.Value | None) -> ir.Value:
    """Where a row of the view begins, as i64."""
    strides, _ = ir.MemRefType(place.buffer.type).get_strides_and_offset()
    at = memref.extract_aligned_pointer_as_index(place.buffer)
    for dim, stride in enumerate(strides[:-1]):
        number = row if dim == place.own[-2] else place.begins[dim]
        if number is not None:
            step = constant_index(stride * _element_bytes(place))
            at = arith.addi(at, arith.muli(number, step))
    return arith.index_cast(ir.IntegerType.get_signless(64), at)


def _descriptor(address: ir.Value, line: int, part: int) -> ir.Value:
    """``line``: bytes that are swizzled as one; ``part``: bytes to the next lines across."""
    group = _LINES * line
    fields = _MODES[line] << 62 | group >> 4 << 32 | part >> 4 << 16
    inside = arith.andi(address, _word(_WINDOW))
    return arith.ori(arith.shrui(inside, _word(4)), _word(fields))


def _word(value: int) -> ir.Value:
    i64 = ir.IntegerType.get_signless(64)
    return arith.constant(i64, value - (1 << 64) if value >> 63 else value)


def _plus(value: ir.Value, number: int) -> ir.Value:
    return arith.addi(value, _word(number))


def _struct(held: Part) -> ir.Type:
    return llvm.StructType.get_literal([ir.F32Type.get()] * (held.columns // 2))


def _pairs(held: Part) -> list[tuple[int, int]]:
    """In the order of the instruction: 8 columns after the other, of them the upper half first."""
    return list(product(range(held.columns // COLUMNS), (0, 1)))


def _registers(held: Part) -> list[ir.Value]:
    pairs = [held.pair(0, n, half) for n, half in _pairs(held)]
    return [vector.extract(pair, [], [side]) for pair in pairs for side in (0, 1)]


def _keep(sums: ir.Value, held: Part) -> None:
    f32 = ir.F32Type.get()
    for number, (n, half) in enumerate(_pairs(held)):
        values = [llvm.extractvalue(f32, sums, [2 * number + side]) for side in (0, 1)]
        pair = vector.from_elements(ir.VectorType.get([2], f32), values)
        vector.store(pair, held.memory, held.at(0, n, half, 0))
