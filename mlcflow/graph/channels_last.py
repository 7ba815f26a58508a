"""Convolutions and poolings with the channels in the innermost dimension."""

from __future__ import annotations

from mlcflow.graph.generic import generic
from mlcflow.graph.kernel import loop_extents
from mlcflow.graph.linalg_ops import indexing_maps, inputs, payload
from mlcflow.graph.window import position_of
from mlcflow.mlir import ir, linalg, tensor

CHANNELS = {
    **{
        f"linalg.{name}": 1
        for name in (
            "conv_1d_ncw_fcw", "conv_2d_nchw_fchw", "conv_3d_ncdhw_fcdhw",
            "depthwise_conv_1d_ncw_cw", "depthwise_conv_2d_nchw_chw",
            "depthwise_conv_3d_ncdhw_cdhw", "pooling_ncw_max", "pooling_ncw_sum",
            "pooling_nchw_max", "pooling_nchw_sum",
        )
    },
    "linalg.conv_2d_ngchw_gfchw": 2,
    "linalg.conv_2d_ngchw_fgchw": 2,
}  # fmt: skip
"""Operations whose channels come before the positions, and how many dimensions of them."""


def last_to_first(rank: int, channels: int) -> list[int]:
    """The permutation that puts the channels, which are last, behind the batch.

    >>> last_to_first(4, 1), last_to_first(5, 2)
    ([0, 3, 1, 2], [0, 3, 4, 1, 2])
    """
    return [0, *range(rank - channels, rank), *range(1, rank - channels)]


def first_to_last(rank: int, channels: int) -> list[int]:
    """The permutation that puts the channels, which are behind the batch, last.

    >>> first_to_last(4, 1), first_to_last(5, 2)
    ([0, 2, 3, 1], [0, 3, 4, 1, 2])
    """
    return [0, *range(1 + channels, rank), *range(1, 1 + channels)]


def transposed(value: ir.Value, permutation: list[int]) -> ir.Value:
    """``linalg.transpose`` of a tensor of known shape."""
    kind = ir.RankedTensorType(value.type)
    empty = tensor.empty([kind.shape[dim] for dim in permutation], kind.element_type)
    return linalg.transpose(value, outs=[empty], permutation=permutation).results[0]


def convolve_channels_last(op: ir.OpView, image: ir.Value, start: ir.Value) -> ir.Value:
    """What ``op``, one of ``CHANNELS``, computes, with channels last in all its operands.

    ``image`` and ``start``, the initial value of the result, have them last already. The loops
    are those of the result, then the window, then the input channels. The weights are laid out
    in the order of the loops that reduce, with the output channels last: for one position of
    the window a matrix whose rows are contiguous. Their transpose depends on parameters alone
    and moves to ``@prepare``.
    """
    channels = CHANNELS[op.operation.name]
    image_map, weights_map, result_map = indexing_maps(op)
    result = _permuted(list(result_map.results), channels)
    read = _permuted(list(image_map.results), channels)
    order = [e.position for e in result]
    into = [e.position for e in read[-channels:] if e.position not in order]
    order += [loop for loop in range(result_map.n_dims) if loop not in [*order, *into]] + into
    last = len(result) - 1
    moved = ir.AffineMap.get(
        len(order), 0, [ir.AffineExpr.get_dim(order.index(loop)) for loop in range(len(order))]
    )
    weights_loops = [order.index(e.position) for e in weights_map.results]
    turn = sorted(
        range(len(weights_loops)), key=lambda dim: _place(weights_loops[dim], last, weights_loops)
    )
    image = _what_is_read(op, image, read)
    weights = inputs(op)[1]
    if turn != sorted(turn):
        weights = transposed(weights, turn)
    maps = [
        [e.compose(moved) for e in read],
        [ir.AffineExpr.get_dim(weights_loops[dim]) for dim in turn],
        [e.compose(moved) for e in result],
    ]
    kinds = ["parallel" if loop <= last else "reduction" for loop in range(len(order))]
    body = op.operation.regions[0].blocks[0]
    for inner in payload(op):
        if inner.operation.name in ("arith.mulf", "arith.addf"):  # one rounding instead of two
            inner.operation.attributes["fastmath"] = ir.Attribute.parse("#arith.fastmath<contract>")
    return generic([image, weights], start, maps, kinds, body)


def _what_is_read(op: ir.OpView, image: ir.Value, read: list[ir.AffineExpr]) -> ir.Value:
    """``image`` without what is behind the window, along dimensions of one result.

    Such a loop is dropped, and upstream then takes the extent of the window for the image's.
    """
    extents = loop_extents(op)
    kind = ir.RankedTensorType(image.type)
    shape = list(kind.shape)
    for dim, expression in enumerate(read):
        found = position_of(expression, extents)
        if found is not None and found[1] == 1:  # a factor stays, and no extent is taken
            shape[dim] = extents[found[0]]
    if shape == list(kind.shape):
        return image
    part = ir.RankedTensorType.get(shape, kind.element_type)
    rank = kind.rank
    return tensor.extract_slice(part, image, [], [], [], [0] * rank, shape, [1] * rank)


def _permuted(expressions: list[ir.AffineExpr], channels: int) -> list[ir.AffineExpr]:
    return [expressions[dim] for dim in first_to_last(len(expressions), channels)]


def _place(loop: int, last: int, loops: list[int]) -> tuple[int, int]:
    """Groups first, then what is reduced in the order of its loops, then output channels."""
    return (2 if loop == last else 0 if loop < last else 1, loop)
