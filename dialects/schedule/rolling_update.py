"""``schedule.rolling_update``: softmax and what it weighs, a part of each row at a time."""

import math

from mlcflow.dialects.schedule.dialect import Erase, ScheduleDialect, attach
from mlcflow.graph.diagonal import diagonal
from mlcflow.graph.generic import dims, generic
from mlcflow.graph.kernel import loop_extents
from mlcflow.graph.linalg_ops import indexing_maps, inputs, outputs, payload
from mlcflow.mlir import affine, arith, ext, ir, linalg, scf, tensor, transform, walk
from mlcflow.mlir import math as math_dialect
from mlcflow.schedule.labels import KIND, LOOP, OF
from mlcflow.schedule.rolling import Rows, filled_with, read_rows

CARRIED = "mlcflow.carried"
"""On a fill that a loop begins with: it is no part that another may be made of, which would be a
copy."""


class RollingUpdate(ScheduleDialect.Operation, name="rolling_update"):
    """Make a loop over parts of ``size`` scores of the softmax that begins with ``target``.

    It carries the maximum and the sum of each row so far, and the product. When the maximum
    rises the others are made smaller first (Milakov and Gimelshein, 2018; Dao et al., 2022). A
    last part that is shorter starts earlier, and leaves out what the part before it has had. Parts
    that a causal mask hides from all rows are left out.
    """

    target: ext.Operand[transform.AnyOpType]
    size: ir.IntegerAttr
    loop_name: ir.StringAttr


def load() -> None:
    """Attach the interfaces, in the current context."""
    attach(RollingUpdate, _apply)


def _apply(op: ir.OpView, payload: list[ir.OpView], erase: Erase) -> None:
    for scores in payload:
        rows = read_rows(scores)
        assert isinstance(rows, Rows)  # checked before the operation was built
        with scores.location:
            _Update(rows, op.size.value).build(op.loop_name, erase)


class _Update:
    """The loop in the making: ``made`` maps values of a whole row to those of the part."""

    def __init__(self, rows: Rows, size: int) -> None:
        self.rows, self.size = rows, size
        self.extent = loop_extents(rows.scores)[1]
        self.made: dict[ir.Value, ir.Value] = {}

    def build(self, name: ir.StringAttr, erase: Erase) -> None:
        rows = self.rows
        with ir.InsertionPoint(rows.product):
            zero = _index(0)
            starts = [_space(op, -1, 0) for op in (rows.largest, rows.sums, rows.product)]
            for start in starts:
                start.owner.attributes[CARRIED] = ir.UnitAttr.get()
            loop = scf.ForOp(zero, self._end(), _index(self.size), starts)
        loop.attributes[LOOP] = name
        loop.attributes[OF] = rows.scores.attributes["mlcflow.block"]
        loop.attributes[KIND] = ir.StringAttr.get("reduction")
        with ir.InsertionPoint(loop.body):
            self._fill_body(loop)
        _move_behind(loop, rows)
        for old, new in zip((rows.sums, rows.product), loop.results[1:], strict=True):
            old.results[0].replace_all_uses_with(new)
        old = [rows.product, *rows.between[::-1], rows.sums, rows.powers, *rows.bounds[::-1]]
        for op in [*old, rows.largest, *rows.above[::-1], rows.scores]:
            erase(op.operation)

    def _end(self) -> ir.Value:
        """Behind the last score that counts for any of the rows."""
        end = _index(self.extent)
        found = [diagonal(op) for op in self.rows.above if self.size < self.extent]
        for offset in (each for each in found if each is not None):
            rows = ir.AffineExpr.get_constant(loop_extents(self.rows.scores)[0])
            reach = ir.AffineMap.get(
                2, 0, [ir.AffineExpr.get_dim(0), ir.AffineExpr.get_dim(1) + rows]
            )
            start = offset if isinstance(offset, ir.Value) else _index(offset)
            end = affine.AffineMinOp(reach, [end, start]).result
        return end

    def _fill_body(self, loop: scf.ForOp) -> None:
        rows = self.rows
        largest, sums, product = loop.inner_iter_args
        self.first = self.start = loop.induction_variable
        if self.extent % self.size:
            last = ir.AffineExpr.get_constant(self.extent - self.size)
            whole = ir.AffineMap.get(1, 0, [ir.AffineExpr.get_dim(0), last])
            self.start = affine.AffineMinOp(whole, [self.first]).result
        for op in (rows.scores, *rows.above):
            scores = self._part(op, 1)
        if self.extent % self.size:
            self.made[(rows.above or (rows.scores,))[-1].results[0]] = self._once(scores)
        now = self._part(rows.largest, 1, linalg.copy(largest, outs=[_like(largest)]))
        before, bound = (_guarded(value, self._bound(value)) for value in (largest, now))
        scale = self._scale(largest, before, bound)
        self.made[inputs(rows.powers)[1]] = bound
        kept = linalg.copy(now, outs=[largest])
        self._part(rows.powers, 1)
        total = self._part(rows.sums, 1, _scaled(sums, scale))
        for op in rows.between:
            self._part(op, 1)
        found = self._part(rows.product, 2, _scaled(product, scale))
        scf.YieldOp([kept, total, found])

    def _part(self, op: ir.OpView, loop: int, start: ir.Value | None = None) -> ir.Value:
        """``op`` on the part of the row, where ``loop`` of it goes along rows."""
        maps, values = indexing_maps(op), list(op.operation.operands)
        number = len(values) - 1
        operands = [self._slice(value, maps[n], loop) for n, value in enumerate(values[:number])]
        operands.append(start if start is not None else _space(op, loop, self.size))
        copy = op.operation.clone()
        for n, value in enumerate(operands):
            copy.operands[n] = value
        copy.results[0].set_type(operands[-1].type)
        for inner in [o for o in walk(copy) if isinstance(o, linalg.IndexOp)]:
            if ir.IntegerAttr(inner.attributes["dim"]).value == loop:
                with ir.InsertionPoint.after(inner):
                    moved = arith.addi(inner.result, self.start)
                inner.result.replace_all_uses_except(moved, moved.owner.operation)
        self.made[op.results[0]] = copy.results[0]
        return copy.results[0]

    def _slice(self, value: ir.Value, read: ir.AffineMap, loop: int) -> ir.Value:
        if value in self.made or not isinstance(value.type, ir.RankedTensorType):
            return self.made.get(value, value)
        along = [isinstance(e, ir.AffineDimExpr) and e.position == loop for e in read.results]
        if not any(along):
            return value
        kind, dynamic = (
            ir.RankedTensorType(value.type),
            ir.ShapedType.get_dynamic_stride_or_offset(),
        )
        sizes = [self.size if each else n for each, n in zip(along, kind.shape, strict=True)]
        offsets = [dynamic if each else 0 for each in along]
        return tensor.ExtractSliceOp(
            ir.RankedTensorType.get(sizes, kind.element_type),
            value, [self.start], [], [], offsets, sizes, [1] * len(sizes),
        ).result  # fmt: skip

    def _once(self, scores: ir.Value) -> ir.Value:
        """Scores without those that the part before this one has had."""

        def body(x: ir.Value, _: ir.Value) -> ir.Value:
            position = arith.addi(linalg.IndexOp(1).result, self.start)
            is_new = arith.cmpi(arith.CmpIPredicate.sge, position, self.first)
            return arith.select(is_new, x, arith.constant(x.type, -math.inf))

        return generic([scores], _like(scores), [dims(2)] * 2, ["parallel"] * 2, body)

    def _bound(self, value: ir.Value) -> ir.Value:
        """What powers are taken from, if ``value`` is the largest of each row."""
        self.made[self.rows.largest.results[0]] = value
        for op in self.rows.bounds:
            value = self._part(op, -1)
        return value

    def _scale(self, largest: ir.Value, before: ir.Value, bound: ir.Value) -> ir.Value:
        """What to multiply by what has been added up before."""
        power = payload(self.rows.powers)[-1]

        def body(x: ir.Value, old: ir.Value, new: ir.Value, _: ir.Value) -> ir.Value:
            make = math_dialect.exp2 if power.operation.name == "math.exp2" else math_dialect.exp
            factor = make(arith.subf(old, new))
            return arith.select(_is_lowest(x), arith.constant(x.type, 0.0), factor)

        return generic([largest, before, bound], _like(largest), [dims(1)] * 4, ["parallel"], body)


def _space(op: ir.OpView, loop: int, size: int) -> ir.Value:
    """Memory for what ``op`` makes, with ``size`` iterations of ``loop``, filled where it was."""
    extents, written = loop_extents(op), indexing_maps(op)[-1]
    sizes = [size if e.position == loop else extents[e.position] for e in written.results]
    space = tensor.empty(sizes, ir.RankedTensorType(op.results[0].type).element_type)
    number = filled_with(outputs(op)[0])
    return space if number is None else linalg.fill(number, outs=[space])


def _move_behind(loop: scf.ForOp, rows: Rows) -> None:
    """Move what reads the sums and stands before the loop behind it."""
    block = loop.operation.block
    moved, place = {rows.sums.results[0]}, loop.operation
    own = {op.operation for op in (rows.product, *rows.between)}
    for op in list(block.operations):
        if op == loop:
            return
        if op.operation not in own and moved & set(op.operation.operands):
            moved |= set(op.operation.results)
            op.operation.move_after(place)
            place = op.operation


def _guarded(largest: ir.Value, bound: ir.Value) -> ir.Value:
    """0 where nothing but -inf has been found: a distance to it would be no number."""

    def body(x: ir.Value, y: ir.Value, _: ir.Value) -> ir.Value:
        return arith.select(_is_lowest(x), arith.constant(x.type, 0.0), y)

    return generic([largest, bound], _like(bound), [dims(1)] * 3, ["parallel"], body)


def _is_lowest(x: ir.Value) -> ir.Value:
    lowest = arith.constant(x.type, -math.inf)
    return arith.cmpf(arith.CmpFPredicate.OEQ, x, lowest)


def _scaled(value: ir.Value, scale: ir.Value) -> ir.Value:
    rank = ir.RankedTensorType(value.type).rank
    maps, kinds = [dims(1), dims(rank)], ["parallel"] * rank
    return generic([scale], value, maps, kinds, lambda x, y: arith.mulf(x, y))


def _like(value: ir.Value) -> ir.Value:
    kind = ir.RankedTensorType(value.type)
    return tensor.empty(list(kind.shape), kind.element_type)


def _index(number: int) -> ir.Value:
    return arith.constant(ir.IndexType.get(), number)
