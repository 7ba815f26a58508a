"""Channels last, from one end of the graph to the other.

Models put the channels of images ahead of their positions (NCHW); code is fast with channels
last (NHWC), where a vector of channels is contiguous for whatever a window does to positions.
"""

from __future__ import annotations

from collections.abc import Callable

from mlcflow.graph.channels_last import (
    CHANNELS,
    convolve_channels_last,
    first_to_last,
    last_to_first,
    transposed,
)
from mlcflow.graph.generic import generic
from mlcflow.graph.linalg_ops import (
    captured,
    indexing_maps,
    inputs,
    is_elementwise,
    is_empty,
    is_fill,
    is_generic,
    is_identity,
    is_linalg,
    iterators,
    outputs,
    owner,
    payload,
)
from mlcflow.mlir import func, ir, linalg, tensor


def channels_last(module: ir.Module) -> None:
    """Let convolutions and poolings, and all between them, work on images with channels last.

    Each convolution and pooling of static shape becomes a generic on channels-last images.
    What reads its result follows: elementwise operations, padding, reductions,
    concatenations, changes of shape that leave positions together. A transpose stays only
    where an image enters from, or leaves to, something that needs channels first.
    """
    for function in module.body.operations:
        if isinstance(function, func.FuncOp) and not function.is_external:
            for block in function.regions[0].blocks:
                layout = _Layout()
                for op in list(block.operations):
                    layout.visit(op)
                layout.finish()


class _Layout:
    """The values of a block that exist with channels last as well.

    ``last``: for a value with channels first the same with channels last, and how many
    dimensions of channels it has. ``made``: the transposes that lead from one to the other.
    """

    def __init__(self) -> None:
        self.last: dict[ir.Value, tuple[ir.Value, int]] = {}
        self.made: list[ir.Operation] = []

    def visit(self, op: ir.OpView) -> None:
        """Replace ``op`` if it works on images."""
        handler = self._handler(op)
        if handler is not None:
            with ir.InsertionPoint(op), op.location:
                handler(op)

    def _handler(self, op: ir.OpView) -> Callable[[ir.OpView], None] | None:
        if op.operation.name in CHANNELS:
            return self._convolve if is_linalg(op) and _is_static(op) else None
        # Destinations may be known as well: one empty tensor serves many operations.
        if not any(value in self.last for value in _sources(op)):
            return None
        if is_generic(op):
            return self._map if self._follows(op) else None
        handlers: dict[type, Callable] = {
            tensor.PadOp: self._pad,
            tensor.ConcatOp: self._concat,
            tensor.CollapseShapeOp: self._collapse,
            tensor.ExpandShapeOp: self._expand,
            linalg.TransposeOp: self._transpose,
        }
        return handlers.get(type(op))

    def keep(self, old: ir.Value, new: ir.Value, channels: int = 1) -> None:
        """Let ``new``, which has channels last, be what ``old`` is with channels first."""
        back = transposed(new, last_to_first(ir.RankedTensorType(new.type).rank, channels))
        self.made.append(back.owner)
        self.last[back] = (new, channels)
        old.replace_all_uses_with(back)
        old.owner.erase()

    def of(self, value: ir.Value, channels: int = 1) -> ir.Value:
        """``value`` with channels last."""
        if value in self.last and self.last[value][1] == channels:
            return self.last[value][0]
        producer, kind = owner(value), ir.RankedTensorType(value.type)
        turn = first_to_last(kind.rank, channels)
        if isinstance(producer, tensor.PadOp) and _pads(producer):
            new = _padded(producer, self.of(producer.source, channels), turn)
        elif is_empty(producer):
            new = tensor.empty([kind.shape[dim] for dim in turn], kind.element_type)
        elif producer is not None and is_fill(producer):
            new = linalg.fill(producer.operands[0], outs=[self.of(producer.operands[1], channels)])
        elif channels == 2 and isinstance(producer, tensor.ExpandShapeOp) and _splits(producer):
            new = _split(self.of(producer.src), kind)
        else:
            new = transposed(value, turn)
            self.made.append(new.owner)
        self.last[value] = (new, channels)
        return new

    def finish(self) -> None:
        """Erase the transposes that nothing reads."""
        for op in reversed(self.made):
            if not list(op.results[0].uses):
                op.erase()

    def _convolve(self, op: ir.OpView) -> None:
        channels = CHANNELS[op.operation.name]
        image, start = self.of(inputs(op)[0], channels), self.of(outputs(op)[0], channels)
        self.keep(op.results[0], convolve_channels_last(op, image, start), channels)

    def _follows(self, op: ir.OpView) -> bool:
        """Whether an image is read by an elementwise operation or reduction, element by element."""
        if len(op.results) != 1 or not _is_static(op):
            return False
        if any(inner.operation.name == "linalg.index" for inner in payload(op)):
            return False
        if any(isinstance(value.type, ir.ShapedType) for value in captured(op)):
            return False
        whole = [
            value
            for value, affine_map in zip(inputs(op), indexing_maps(op), strict=False)
            if is_identity(affine_map) and self.last.get(value, (None, 0))[1] == 1
        ]
        return bool(whole) and (is_elementwise(op) or "reduction" in iterators(op))

    def _map(self, op: ir.OpView) -> None:
        """A generic that reads an image: its loops in the order of the channels-last image."""
        maps, count = indexing_maps(op), len(inputs(op))
        turn = first_to_last(maps[0].n_dims, 1)
        moved = ir.AffineMap.get(
            len(turn), 0, [ir.AffineExpr.get_dim(turn.index(loop)) for loop in range(len(turn))]
        )
        operands, new_maps = [], []
        for number, (value, affine_map) in enumerate(zip(op.operation.operands, maps, strict=True)):
            results = [e.compose(moved) for e in affine_map.results]
            is_image = is_identity(affine_map) or self.last.get(value, (None, 0))[1] == 1
            # A result of a lower rank, as of a reduction, has no channels-last form.
            if (is_image or number == count) and len(results) == len(turn):
                value = self.of(value)
                results = [results[dim] for dim in turn]
            operands.append(value)
            new_maps.append(results)
        kinds = [iterators(op)[loop] for loop in turn]
        body = op.operation.regions[0].blocks[0]
        result = generic(operands[:count], operands[count], new_maps, kinds, body)
        if operands[count] != outputs(op)[0]:
            self.keep(op.results[0], result)
        else:
            op.results[0].replace_all_uses_with(result)
            op.operation.erase()

    def _pad(self, op: ir.OpView) -> None:
        source, channels = self.last[op.source]
        if _pads(op):
            turn = first_to_last(ir.RankedTensorType(op.result.type).rank, channels)
            self.keep(op.result, _padded(op, source, turn), channels)

    def _concat(self, op: ir.OpView) -> None:
        kind = ir.RankedTensorType(op.result.type)
        if not kind.has_static_shape or any(
            self.last.get(value, (None, 1))[1] != 1 for value in op.inputs
        ):
            return
        turn = first_to_last(kind.rank, 1)
        result = ir.RankedTensorType.get([kind.shape[dim] for dim in turn], kind.element_type)
        dim = turn.index(ir.IntegerAttr(op.attributes["dim"]).value)
        joined = tensor.concat(result, dim, [self.of(value) for value in op.inputs])
        self.keep(op.result, joined)

    def _collapse(self, op: ir.OpView) -> None:
        """Groups into channels, all positions into one, or an image of one position."""
        value, channels = self.last[op.src]
        kind, groups = ir.RankedTensorType(op.result.type), _groups(op)
        rank = ir.RankedTensorType(value.type).rank
        if channels == 2 and groups == [[0], [1, 2], *([d] for d in range(3, rank))]:
            new_groups = [*([d] for d in range(rank - 2)), [rank - 2, rank - 1]]
        elif channels == 1 and groups == [[0], [1], list(range(2, rank))]:
            new_groups = [[0], list(range(1, rank - 1)), [rank - 1]]
        elif groups[-1][-1] == groups[-1][0] + rank - 2 == rank - 1 and _is_point(value):
            op.operation.operands[0] = value
            return
        else:
            return
        shape = [kind.shape[dim] for dim in first_to_last(kind.rank, 1)]
        result = ir.RankedTensorType.get(shape, kind.element_type)
        self.keep(op.result, tensor.collapse_shape(result, value, new_groups))

    def _expand(self, op: ir.OpView) -> None:
        value, channels = self.last[op.src]
        if channels == 1 and _splits(op):
            self.keep(op.result, _split(value, ir.RankedTensorType(op.result.type)), 2)

    def _transpose(self, op: ir.OpView) -> None:
        value, channels = self.last[inputs(op)[0]]
        permutation = list(ir.DenseI64ArrayAttr(op.attributes["permutation"]))
        if permutation == first_to_last(len(permutation), channels):
            op.results[0].replace_all_uses_with(value)
            op.operation.erase()


def _sources(op: ir.OpView) -> list[ir.Value]:
    """What an operation reads, without the destination of a linalg operation."""
    return inputs(op) if op.operation.name.startswith("linalg.") else list(op.operation.operands)


def _is_point(value: ir.Value) -> bool:
    """Whether an image with channels last has one position, so that its layout says nothing."""
    return all(size == 1 for size in ir.RankedTensorType(value.type).shape[1:-1])


def _is_static(op: ir.OpView) -> bool:
    kinds = [value.type for value in op.operation.operands]
    return all(ir.ShapedType(k).has_static_shape for k in kinds if isinstance(k, ir.ShapedType))


def _pads(op: tensor.PadOp) -> bool:
    """Whether the widths are known, and the value is the same everywhere."""
    dynamic = ir.ShapedType.get_dynamic_size()
    widths = [*op.static_low, *op.static_high]
    body = op.regions[0].blocks[0].operations
    fill = owner(body[len(body) - 1].operands[0])
    return (
        dynamic not in widths
        and ir.RankedTensorType(op.result.type).has_static_shape
        and len(body) <= 2
        and (fill is None or fill.operation.name == "arith.constant")
    )


def _padded(op: tensor.PadOp, source: ir.Value, turn: list[int]) -> ir.Value:
    """``op`` on a source whose dimensions are in the order ``turn``."""
    kind = ir.RankedTensorType(op.result.type)
    low, high = list(op.static_low), list(op.static_high)
    result = ir.RankedTensorType.get([kind.shape[dim] for dim in turn], kind.element_type)
    widths = [[width[dim] for dim in turn] for width in (low, high)]
    new = tensor.PadOp(result, source, [], [], *widths)
    index = ir.IndexType.get()
    block = new.regions[0].blocks.append(*[index] * kind.rank)
    with ir.InsertionPoint(block):
        for inner in op.regions[0].blocks[0].operations:
            inner.operation.clone()
        if len(block.operations) == 2:
            block.operations[1].operands[0] = block.operations[0].results[0]
    return new.result


def _groups(op: ir.OpView) -> list[list[int]]:
    return [
        [ir.IntegerAttr(dim).value for dim in ir.ArrayAttr(group)] for group in op.reassociation
    ]


def _splits(op: tensor.ExpandShapeOp) -> bool:
    """Whether channels become groups of channels, and nothing else changes."""
    rank = ir.RankedTensorType(op.result.type).rank
    return _groups(op) == [[0], [1, 2], *([d] for d in range(3, rank))]


def _split(value: ir.Value, kind: ir.RankedTensorType) -> ir.Value:
    """``value``, channels last, with its channels in groups as those of ``kind``."""
    shape = [kind.shape[dim] for dim in first_to_last(kind.rank, 2)]
    groups = [*([d] for d in range(kind.rank - 2)), [kind.rank - 2, kind.rank - 1]]
    result = ir.RankedTensorType.get(shape, kind.element_type)
    return tensor.expand_shape(result, value, groups, [], shape)
