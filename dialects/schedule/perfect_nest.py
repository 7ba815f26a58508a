"""``schedule.perfect_nest``: move the slices between two loops into the inner one."""

from mlcflow.dialects.schedule.dialect import Erase, ScheduleDialect, attach
from mlcflow.mlir import affine, ext, ir, scf, tensor, transform
from mlcflow.schedule.labels import LOOP_KEYS
from mlcflow.schedule.nests import Between, between


class PerfectNest(ScheduleDialect.Operation, name="perfect_nest"):
    """Make the loop inside each ``scf.for`` of ``outer`` all of its body.

    Tiling one loop after the other takes a slice between them, works on it in the inner loop
    and puts it back. Here the inner loop carries the whole tensor and takes the slice itself.
    """

    outer: ext.Operand[transform.AnyOpType]


def load() -> None:
    """Attach the interfaces, in the current context."""
    attach(PerfectNest, _apply)


def _apply(op: ir.OpView, payload: list[ir.OpView], erase: Erase) -> None:
    for outer in payload:
        found = between(outer)
        assert found is not None  # checked before the operation was built
        if found.insert is not None:
            _perfect(outer, found, erase)


def _perfect(outer: scf.ForOp, found: Between, erase: Erase) -> None:
    assert found.extract is not None and found.insert is not None
    inner = found.inner
    carried = outer.inner_iter_args[0]
    with ir.InsertionPoint(inner), inner.location:
        new = scf.ForOp(inner.lowerBound, inner.upperBound, inner.step, [carried])
    for key in LOOP_KEYS:
        if key in inner.attributes:
            new.attributes[key] = inner.attributes[key]
    inner.induction_variable.replace_all_uses_with(new.induction_variable)
    anchor = ir.InsertionPoint(new.body)
    bounds = {value.owner for value in (new.lowerBound, new.upperBound, new.step)}
    for pure in found.pure:
        if pure not in bounds:
            pure.operation.detach_from_parent()
            anchor.insert(pure)
    found.extract.operation.operands[0] = new.inner_iter_args[0]
    inner.inner_iter_args[0].replace_all_uses_with(found.extract.result)
    for inside in list(inner.body.operations):
        if isinstance(inside, scf.YieldOp):
            value = inside.operands[0]
            inside.operation.erase()
            _put_back(anchor, value, new, found, erase)
            break
        inside.operation.detach_from_parent()
        anchor.insert(inside)
    outer_yield = outer.body.operations[len(outer.body.operations) - 1]
    outer_yield.operation.operands[0] = new.results[0]
    erase(found.insert.operation)
    erase(inner.operation)


def _put_back(
    anchor: ir.InsertionPoint, value: ir.Value, new: scf.ForOp, found: Between, erase: Erase
) -> None:
    """Insert ``value`` into the tensor that ``new`` carries, where its slice was taken.

    What was inserted into that slice is inserted into the whole directly, at the sum of the
    offsets: upstream merges such extractions but not such insertions.
    """
    assert found.insert is not None and found.extract is not None
    carried = new.inner_iter_args[0]
    last = None if isinstance(value.owner, ir.Block) else value.owner
    with anchor:
        if isinstance(last, tensor.InsertSliceOp) and last.dest == found.extract.result:
            _insert_merged(last, found.insert, carried)
            erase(last.operation)
        else:
            copy = found.insert.operation.clone()
            copy.operands[0] = value
            copy.operands[1] = carried
        block = anchor.block
        scf.YieldOp([block.operations[len(block.operations) - 1].results[0]])


def _insert_merged(
    inner: tensor.InsertSliceOp, outer: tensor.InsertSliceOp, into: ir.Value
) -> None:
    pairs = zip(_offsets(inner), _offsets(outer), strict=True)
    static, dynamic = [], []
    for first, second in pairs:
        if isinstance(first, int) and isinstance(second, int):
            static.append(first + second)
        else:
            static.append(ir.ShapedType.get_dynamic_stride_or_offset())
            dynamic.append(_sum(first, second))
    tensor.InsertSliceOp(
        inner.source,
        into,
        dynamic,
        [],
        [],
        static,
        list(inner.static_sizes),
        [1] * len(static),
    )


def _offsets(op: tensor.InsertSliceOp) -> list[int | ir.Value]:
    dynamic = iter(op.offsets)
    marker = ir.ShapedType.get_dynamic_stride_or_offset()
    return [next(dynamic) if size == marker else size for size in op.static_offsets]


def _sum(first: int | ir.Value, second: int | ir.Value) -> ir.Value:
    """In the form in which upstream merges extractions, so that both are the same value."""
    operands = [value for value in (first, second) if not isinstance(value, int)]
    total = ir.AffineExpr.get_constant(sum(v for v in (first, second) if isinstance(v, int)))
    for number in range(len(operands)):
        total = ir.AffineExpr.get_symbol(number) + total
    return affine.AffineApplyOp(ir.AffineMap.get(0, len(operands), [total]), operands).result
