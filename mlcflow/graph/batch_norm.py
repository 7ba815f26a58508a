"""What scales and shifts the result of a convolution, such as batch normalization."""

from __future__ import annotations

from mlcflow.graph.affine_payload import ONE, ZERO, Line, emit, leaves, read_line
from mlcflow.graph.channels_last import CHANNELS
from mlcflow.graph.generic import dims, generic
from mlcflow.graph.interface import entry_points
from mlcflow.graph.linalg_ops import (
    captured,
    indexing_maps,
    inputs,
    is_elementwise,
    is_empty,
    is_fill,
    is_identity,
    is_linalg,
    outputs,
    owner,
)
from mlcflow.graph.prepare import fixed_parameters
from mlcflow.mlir import arith, ir, linalg, tensor, walk

FLOATS = frozenset({"f64", "f32", "f16", "bf16"})


def separate_bias(module: ir.Module) -> None:
    """Let convolutions start from zero, and add the bias to the result like what follows it."""
    for op in walk(module.operation):
        if _is_convolution(op, wide=True) and not is_fill(owner(outputs(op)[0])):
            with ir.InsertionPoint.after(_last(op).owner), op.location:
                _separate(op)


def fold_batch_norm(module: ir.Module) -> None:
    """Multiply what scales the result of a convolution, channel by channel, into its weights.

    Follows the elementwise operations behind a convolution as far as each is a line
    ``scale * x + shift`` whose numbers depend on parameters alone, and replaces them by the
    addition of one shift. Scaled weights and shift move to ``@prepare``. Changes the order of
    floating-point operations.
    """
    main = next((f for f in entry_points(module) if f.name.value == "main"), None)
    fixed = set(fixed_parameters(main)) if main is not None else set()
    for op in walk(module.operation):
        if _is_convolution(op) and is_fill(owner(outputs(op)[0])):
            _fold(op, fixed)


def _is_convolution(op: ir.OpView, *, wide: bool = False) -> bool:
    """Whether ``op`` is a convolution of one floating-point type and known shapes.

    ``wide``: or one whose sums are wider than its factors.
    """
    if "conv" not in op.operation.name or op.operation.name not in CHANNELS or not is_linalg(op):
        return False
    kinds = [ir.RankedTensorType(value.type) for value in op.operation.operands]
    types = {str(kind.element_type) for kind in (kinds[:-1] if wide else kinds)}
    return len(types) == 1 and types <= FLOATS and all(kind.has_static_shape for kind in kinds)


def _last(op: ir.OpView) -> ir.Value:
    """The result of a convolution; with groups of channels, after it has joined them."""
    uses = list(op.results[0].uses)
    if CHANNELS[op.operation.name] == 2 and len(uses) == 1 and _joins(uses[0].owner.opview):
        return uses[0].owner.results[0]
    return op.results[0]


def _joins(op: ir.OpView) -> bool:
    """Whether ``op`` makes one dimension of groups and the channels of a group, and no more."""
    if not isinstance(op, tensor.CollapseShapeOp):
        return False
    parts = [len(ir.ArrayAttr(part)) for part in ir.ArrayAttr(op.attributes["reassociation"])]
    return parts == [1, 2, *[1] * (len(parts) - 2)]


def _separate(op: ir.OpView) -> None:
    start, result = outputs(op)[0], _last(op)
    kind = ir.RankedTensorType(start.type)
    with ir.InsertionPoint(op):
        empty = tensor.empty(list(kind.shape), kind.element_type)
        zero = linalg.fill(arith.constant(kind.element_type, 0.0), outs=[empty])
    op.operation.operands[len(op.operands) - 1] = zero
    bias = _repeated(start)
    apart = CHANNELS[op.operation.name] == 2 and result == op.results[0]  # groups, never joined
    if bias is None or apart:
        bias, result = start, op.results[0]
    readers = [(use.owner, use.operand_number) for use in result.uses]
    total = _sum(result, bias)
    for reader, number in readers:
        reader.operands[number] = total


def _sum(value: ir.Value, other: ir.Value) -> ir.Value:
    """``value + other``, which has the shape of ``value``, or one number a channel."""
    kind = ir.RankedTensorType(value.type)
    every = dims(kind.rank)
    position = every if other.type == kind else [every[1]]
    return generic(
        [value, other],
        tensor.empty(list(kind.shape), kind.element_type),
        [every, position, every],
        ["parallel"] * kind.rank,
        lambda x, y, _: arith.addf(x, y),
    )


def _repeated(start: ir.Value) -> ir.Value | None:
    """The numbers, one a channel, that ``start`` repeats at each position."""
    producer = owner(start)
    if isinstance(producer, tensor.ExpandShapeOp):  # into groups
        producer = owner(producer.src)
    if not isinstance(producer, linalg.BroadcastOp):
        return None
    rank = ir.RankedTensorType(producer.results[0].type).rank
    repeated = list(ir.DenseI64ArrayAttr(producer.attributes["dimensions"]))
    return inputs(producer)[0] if repeated == [0, *range(2, rank)] else None


def _fold(op: ir.OpView, fixed: set[ir.Value]) -> None:
    """Follow the result of ``op``, and fold what is found into its weights."""
    if not is_fixed(inputs(op)[1], fixed):
        return
    value, line = _last(op), Line()
    while (found := _next(value, fixed)) is not None:
        value, line = found[0], line.then(found[1])
    if line.scale == ONE:
        return
    kind = ir.RankedTensorType(op.results[0].type)
    channels = ir.RankedTensorType(value.type).shape[1]
    with ir.InsertionPoint(value.owner), op.location:
        total = _last(op)
        if line.shift != ZERO:
            total = _sum(total, emit(line.shift, channels, kind.element_type))
        value.replace_all_uses_with(total)
    for number in leaves(line.scale):
        _define_before(number, op)
    with ir.InsertionPoint(op), op.location:
        scale = emit(line.scale, channels, kind.element_type)
        op.operation.operands[1] = _scaled(op, scale)


def _next(value: ir.Value, fixed: set[ir.Value]) -> tuple[ir.Value, Line] | None:
    """The only reader of ``value``, if it is a line of fixed numbers, and that line."""
    uses = list(value.uses)
    if len(uses) != 1:
        return None
    reader = uses[0].owner.opview
    if not is_elementwise(reader) or len(reader.results) != 1 or value in outputs(reader):
        return None
    if not is_identity(indexing_maps(reader)[uses[0].operand_number]):
        return None
    if reader.results[0].type != value.type:
        return None
    line = read_line(reader, value, channel=1)
    if line is None or not all(is_fixed(v, fixed) for v in leaves(line.scale)):
        return None
    return (
        (reader.results[0], line) if all(is_fixed(v, fixed) for v in leaves(line.shift)) else None
    )


def is_fixed(value: ir.Value, fixed: set[ir.Value]) -> bool:
    """Whether ``value`` depends on ``fixed`` values and constants alone."""
    producer = owner(value)
    if producer is None:
        return value in fixed
    name = producer.operation.name
    if name == "arith.constant" or is_empty(producer):
        return True
    if not (is_linalg(producer) or name in ("tensor.expand_shape", "tensor.collapse_shape")):
        return False
    return all(is_fixed(v, fixed) for v in [*producer.operation.operands, *captured(producer)])


def _define_before(value: ir.Value, op: ir.OpView) -> None:
    """Move what ``value`` is computed from ahead of ``op``, in the same block."""
    producer = owner(value)
    if producer is not None and op.operation.is_before_in_block(producer.operation):
        for operand in [*producer.operation.operands, *captured(producer)]:
            _define_before(operand, op)
        producer.operation.move_before(op.operation)


def _scaled(op: ir.OpView, scale: ir.Value) -> ir.Value:
    """The weights of ``op``, those of each output channel times its number in ``scale``."""
    weights = inputs(op)[1]
    kind = ir.RankedTensorType(weights.type)
    _, weights_map, result_map = indexing_maps(op)
    loops = [e.position for e in list(result_map.results)[1 : 1 + CHANNELS[op.operation.name]]]
    positions = [e.position for e in weights_map.results]
    if len(loops) == 2:
        shape = list(ir.RankedTensorType(op.results[0].type).shape)[1:3]
        grouped = ir.RankedTensorType.get(shape, kind.element_type)
        scale = tensor.expand_shape(grouped, scale, [[0, 1]], [], shape)
    every = dims(kind.rank)
    return generic(
        [weights, scale],
        tensor.empty(list(kind.shape), kind.element_type),
        [every, [every[positions.index(loop)] for loop in loops], every],
        ["parallel"] * kind.rank,
        lambda x, y, _: arith.mulf(x, y),
    )
