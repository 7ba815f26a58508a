"""How the tiles of ``mma.sync`` are spread over the threads of a warp, and how they get there.

Of a 16 x 8 tile of sums, lane ``l`` holds columns ``2 (l % 4)`` and the next of rows ``l / 4`` and
8 below; factors are held likewise, in registers of 32 bits (PTX ISA, "Matrix fragments for
mma.m16n8k16" and "m16n8k8").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlcflow.gpu.loops import constant_index, spread_over
from mlcflow.gpu.swizzle import PIECE, swizzle_of
from mlcflow.mlir import arith, ir, memref, nvgpu, nvvm, vector

_DYNAMIC = ir.ShapedType.get_dynamic_stride_or_offset()


@dataclass(frozen=True)
class Place:
    """A view as a part of a buffer: where it begins in each dimension, which are its own, and the
    sizes of these.
    """

    buffer: ir.Value
    begins: tuple[ir.Value | None, ...]
    own: tuple[int, ...]
    sizes: tuple[int, ...]

    def at(self, row: ir.Value, column: ir.Value, strides: tuple[int, ...] = ()) -> list[ir.Value]:
        """The position in the buffer of an element; rows are counted over all but the last
        dimension of the view, of which they are every ``strides[..]``-th.
        """
        found = [begin if begin is not None else constant_index(0) for begin in self.begins]
        steps = ((1,) * len(self.sizes) + strides)[1 - len(self.sizes) :]
        sizes = [-(-size // step) for size, step in zip(self.sizes, steps, strict=False)]
        lines = [
            arith.muli(line, constant_index(step)) if step > 1 else line
            for line, step in zip(spread_over(row, sizes), steps, strict=True)
        ]
        indices = [*lines, column]
        for dim, index in zip(self.own, indices, strict=True):
            begin = self.begins[dim]
            found[dim] = index if begin is None else arith.addi(begin, index)
        return found


def place_of(view: ir.Value) -> Place:
    """Where a chain of subviews ends, as far as their strides are 1."""
    shape = tuple(ir.MemRefType(view.type).shape)
    whole = Place(view, (None,) * len(shape), tuple(range(len(shape))), shape)
    if isinstance(view.owner, ir.Block) or not isinstance(view.owner.opview, memref.SubViewOp):
        return whole
    op = view.owner.opview
    if any(stride != 1 for stride in op.static_strides):
        return whole
    outer = place_of(op.source)
    dynamic = iter(op.offsets)
    offsets = [
        next(dynamic) if offset == _DYNAMIC else constant_index(offset) if offset else None
        for offset in op.static_offsets
    ]
    begins = list(outer.begins)
    for dim, offset in zip(outer.own, offsets, strict=True):
        if offset is not None:
            begin = begins[dim]
            begins[dim] = offset if begin is None else arith.addi(begin, offset)
    kept, spare = [], len(outer.own) - len(shape)
    for dim, size in zip(outer.own, op.static_sizes, strict=True):
        if spare and size == 1:
            spare -= 1
        else:
            kept.append(dim)
    return Place(outer.buffer, tuple(begins), tuple(kept), shape)


@dataclass(frozen=True)
class Lane:
    """A thread of a warp: its number, a quarter of it, and the rest."""

    number: ir.Value
    group: ir.Value
    rest: ir.Value


def lane(number: ir.Value) -> Lane:
    """The lane with this number, at the insertion point."""
    four = constant_index(4)
    return Lane(number, arith.divui(number, four), arith.remui(number, four))


def sums_at(who: Lane) -> list[tuple[ir.Value, ir.Value]]:
    """Row and column of the 4 sums of a tile that a lane holds."""
    below = _plus(who.group, 8)
    first = arith.muli(who.rest, constant_index(2))
    second = _plus(first, 1)
    return [(who.group, first), (who.group, second), (below, first), (below, second)]


def _plus(value: ir.Value, number: int) -> ir.Value:
    return arith.addi(value, constant_index(number)) if number else value


@dataclass(frozen=True)
class Factor:
    """A factor of a product: a view of ``rows`` x ``columns`` elements that lie in rows.

    ``across``: the reduction goes along the rows of the view, as for A[m, k] and B[n, k].
    ``strides``: of the rows in each dimension of the view but the last; 1 by default.
    """

    place: Place
    element: ir.Type
    across: bool
    strides: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Bits of an element."""
        return int(self.element.width)

    def has_matrices(self) -> bool:
        """Whether ``ldmatrix`` reads it: from shared memory, in rows of whole 16 bytes."""
        kind = ir.MemRefType(self.place.buffer.type)
        rows = kind.shape[-1] * self.width // 8
        is_shared = "workgroup" in str(kind.memory_space)
        return is_shared and rows % PIECE == 0 and (self.across or self.width == 16)

    def at(self, row: ir.Value, column: ir.Value) -> list[ir.Value]:
        """Where an element of the view lies."""
        *outer, line, position = self.place.at(row, column, self.strides)
        swizzle = swizzle_of(self.place.buffer)
        if swizzle is None:
            return [*outer, line, position]
        lanes = constant_index(PIECE * 8 // self.width)
        rows = ir.MemRefType(self.place.buffer.type).shape[-2]
        line, piece = swizzle.place(line, arith.divui(position, lanes), rows)
        inside = arith.remui(position, lanes)
        return [*outer, line, arith.addi(arith.muli(piece, lanes), inside)]

    def matrices(self, row: ir.Value, column: ir.Value, count: int = 4) -> ir.Value:
        """``count`` 8 x 8 tiles (of 16 bits; 8 x 4 of 32), 4 at most, lane ``l`` giving where row
        ``l % 8`` of tile ``l / 8`` begins.
        """
        words = 32 // self.width
        kind = ir.VectorType.get([count, words], self.element)
        where = self.at(row, column)
        return nvgpu.LdMatrixOp(kind, self.place.buffer, where, not self.across, count).res

    def elements(self, at: Sequence[tuple[ir.Value, ir.Value]]) -> ir.Value:
        """Registers of elements read one by one, at (place along the sums, place along k)."""
        words = 32 // self.width
        values = [
            memref.load(self.place.buffer, self.at(*(pair if self.across else pair[::-1])))
            for pair in at
        ]
        rows = [
            vector.from_elements(ir.VectorType.get([words], self.element), values[n : n + words])
            for n in range(0, len(values), words)
        ]
        return stack(rows)


def stack(rows: Sequence[ir.Value]) -> ir.Value:
    """Vectors as the rows of one of two dimensions."""
    element = ir.VectorType(rows[0].type)
    kind = ir.VectorType.get([len(rows), *element.shape], element.element_type)
    zero = ir.FloatAttr.get(element.element_type, 0.0)
    whole = arith.constant(kind, ir.DenseElementsAttr.get_splat(kind, zero))
    for number, row in enumerate(rows):
        whole = vector.insert(row, whole, [], [number])
    return whole


def fill(rows: Sequence[ir.Value], count: int) -> ir.Value:
    """Registers, ``count`` of them: ``rows``, and zeros where the reduction has ended."""
    kind = ir.VectorType(rows[0].type)
    zero = ir.FloatAttr.get(kind.element_type, 0.0)
    nothing = [arith.constant(kind, ir.DenseElementsAttr.get_splat(kind, zero))]
    return stack([*rows, *nothing * (count - len(rows))])


def read_left(factor: Factor, who: Lane, row: int, k: int, depth: int) -> ir.Value:
    """The registers of a 16 x ``depth`` tile of A; ``depth`` may be half of an instruction's."""
    half = PIECE * 8 // factor.width
    if factor.has_matrices():
        sixteen = constant_index(16)
        line = _plus(arith.remui(who.number, sixteen), row)
        if depth == half:
            two = factor.matrices(line, constant_index(k), 2)
            return fill([vector.extract(two, [], [number]) for number in (0, 1)], 4)
        along = arith.muli(arith.divui(who.number, sixteen), constant_index(half))
        return factor.matrices(line, _plus(along, k))
    at = [
        (_plus(who.group, row + below), each)
        for right in range(0, depth, half)
        for below in (0, 8)
        for each in _along_k(who, k + right, factor.width)
    ]
    found = factor.elements(at)
    return fill([vector.extract(found, [], [n]) for n in (0, 1)], 4) if depth == half else found


def read_right(
    factor: Factor,
    who: Lane,
    column: int,
    k: int,
    depth: int,
    *,
    tiles: int = 2,
    neighbours: bool = False,
) -> list[ir.Value]:
    """The registers of ``depth`` x 8 tiles of B, one or two next to each other.

    ``depth`` may be half of an instruction's. ``neighbours``: steps of the reduction that lie next
    to each other in the place of those that lie half of that apart.
    """
    half = PIECE * 8 // factor.width
    columns = range(column, column + tiles * 8, 8)
    if neighbours:
        rows = [_plus(arith.muli(who.rest, constant_index(2)), k + side) for side in (0, 1)]
        places = [_plus(who.group, tile) for tile in columns]
        return [factor.elements([(across, row) for row in rows]) for across in places]
    parts = depth // half
    if factor.has_matrices():
        found = _matrices(factor, who, column, k, tiles, parts)
        registers = [vector.extract(found, [], [number]) for number in range(tiles * parts)]
        return [fill(registers[n * parts : (n + 1) * parts], 2) for n in range(tiles)]
    at = [each for n in range(parts) for each in _along_k(who, k + n * half, factor.width)]
    found = [factor.elements([(_plus(who.group, n), each) for each in at]) for n in columns]
    return [
        fill([vector.extract(each, [], [n]) for n in range(parts)], 2) if parts == 1 else each
        for each in found
    ]


def _matrices(factor: Factor, who: Lane, column: int, k: int, tiles: int, parts: int) -> ir.Value:
    """The 8 x 8 parts of ``tiles`` of B, those of a tile after each other."""
    eight, sixteen, two = (constant_index(number) for number in (8, 16, 2))
    row, zero = arith.remui(who.number, eight), constant_index(0)
    second = arith.remui(arith.divui(who.number, eight), two)
    part = second if parts == 2 else zero
    tile = zero if tiles == 1 else arith.divui(who.number, sixteen) if parts == 2 else second
    across = arith.muli(tile, eight)
    if factor.across:  # B[n, k]
        along = arith.muli(part, constant_index(PIECE * 8 // factor.width))
        line = arith.addi(row, across)
        return factor.matrices(_plus(line, column), _plus(along, k), tiles * parts)
    line = arith.addi(row, arith.muli(part, eight))
    return factor.matrices(_plus(line, k), _plus(across, column), tiles * parts)


def _along_k(who: Lane, k: int, width: int) -> list[ir.Value]:
    """The places along k of the elements in one register."""
    words = 32 // width
    first = _plus(arith.muli(who.rest, constant_index(words)), k)
    return [_plus(first, number) for number in range(words)]


def to_tf32(registers: ir.Value) -> ir.Value:
    """Registers of f32 rounded to the nearest numbers of 11 bits; the chip would cut them off."""
    count = ir.VectorType(registers.type).shape[0]
    f32 = ir.F32Type.get()
    mode = ir.Attribute.parse("#nvvm.fp_rnd_mode<rna>")
    rows = []
    for number in range(count):
        value = vector.extract(registers, [], [number, 0])
        bits = nvvm.ConvertFloatToTF32Op(value, rnd=mode).res
        rounded = arith.bitcast(f32, bits)
        rows.append(vector.from_elements(ir.VectorType.get([1], f32), [rounded]))
    return stack(rows)
