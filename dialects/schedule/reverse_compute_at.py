"""``schedule.reverse_compute_at``: compute a consumer where its producer's tile is made."""

from mlcflow.dialects.schedule.dialect import Erase, ScheduleDialect, attach
from mlcflow.graph.linalg_ops import indexing_maps, outputs
from mlcflow.mlir import ext, func, ir, tensor, transform
from mlcflow.schedule.consumers import Consumption, consumption, taken_after
from mlcflow.schedule.labels import find_block


class ReverseComputeAt(ScheduleDialect.Operation, name="reverse_compute_at"):
    """Move the elementwise block ``block_name`` to the end of the body of each ``scf.for``.

    The nest that ends with the loop then carries the result of the block instead of its
    producer's, of which only a tile is left.
    """

    target: ext.Operand[transform.AnyOpType]
    block_name: ir.StringAttr


def load() -> None:
    """Attach the interfaces, in the current context."""
    attach(ReverseComputeAt, _apply)


def _apply(op: ir.OpView, payload: list[ir.OpView], erase: Erase) -> None:
    for loop in payload:
        consumer = find_block(_function(loop), op.block_name.value)
        found = consumption(consumer, loop)
        assert isinstance(found, Consumption)  # checked before the operation was built
        for value in consumer.operands:
            if value != found.loops[0].results[0]:
                for op in taken_after(value, found.loops[0]) or []:
                    op.operation.move_before(found.loops[0].operation)
        _carry(consumer, found)
        _move(consumer, found, erase)


def _function(op: ir.OpView) -> func.FuncOp:
    parent = op.operation.parent
    while not isinstance(parent.opview, func.FuncOp):
        parent = parent.parent
    return parent.opview


def _carry(consumer: ir.OpView, found: Consumption) -> None:
    """Let the loops carry the destination of ``consumer``.

    What a tile starts from is then read from before the loops: each part of it is read once.
    """
    start = found.loops[0].initArgs[0]
    carried = found.loops[-1].inner_iter_args[0]
    uses = [(use.owner, use.operand_number) for use in carried.uses]
    for user, number in uses:
        if user != found.insert.operation:
            user.operation.operands[number] = start
    kind = consumer.results[0].type
    for loop in found.loops:
        loop.inner_iter_args[0].set_type(kind)
        loop.results[0].set_type(kind)
    found.insert.result.set_type(kind)
    found.loops[0].operation.operands[3] = outputs(consumer)[0]


def _move(consumer: ir.OpView, found: Consumption, erase: Erase) -> None:
    insert, made = found.insert, found.loops[0].results[0]
    tile = insert.source
    with ir.InsertionPoint(insert), insert.location:
        values = [*list(consumer.operands)[:-1], insert.dest]
        operands = [
            tile if value == made else _slice(value, affine_map, insert)
            for value, affine_map in zip(values, indexing_maps(consumer), strict=True)
        ]
        copy = consumer.operation.clone()
    for number, value in enumerate(operands):
        copy.operands[number] = value
    copy.results[0].set_type(operands[-1].type)
    insert.operation.operands[0] = copy.results[0]
    consumer.results[0].replace_all_uses_with(made)
    erase(consumer.operation)


def _slice(value: ir.Value, affine_map: ir.AffineMap, insert: tensor.InsertSliceOp) -> ir.Value:
    """The part of an operand that the tile at the place of ``insert`` goes with."""
    if not isinstance(value.type, ir.RankedTensorType):
        return value
    whole = ir.RankedTensorType(value.type)
    dynamic = iter(insert.offsets)
    marker = ir.ShapedType.get_dynamic_stride_or_offset()
    starts = [(n, next(dynamic) if n == marker else None) for n in insert.static_offsets]
    offsets, sizes, values = [], [], []
    for dimension, expression in enumerate(affine_map.results):
        if isinstance(expression, ir.AffineDimExpr):
            static, start = starts[expression.position]
            offsets.append(static)
            values += [] if start is None else [start]
            sizes.append(insert.static_sizes[expression.position])
        else:
            offsets.append(0)
            sizes.append(whole.shape[dimension])
    kind = ir.RankedTensorType.get(sizes, whole.element_type)
    ones = [1] * len(sizes)
    return tensor.ExtractSliceOp(kind, value, values, [], [], offsets, sizes, ones).result
