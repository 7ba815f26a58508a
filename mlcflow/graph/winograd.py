"""3x3 convolutions with fewer multiplications: Winograd's minimal filtering.

A tile of ``m x m`` pixels of the result is a sum over input channels of elementwise products of
``(m + 2) x (m + 2)`` numbers: of the transformed filter, made in ``@prepare``, and of the
transformed pixels that the tile reads. For each place in a tile, a plane, these sums are a
product of two matrices: tiles by channels, input by output channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from mlcflow.graph.batch_norm import is_fixed
from mlcflow.graph.choices import pick
from mlcflow.graph.generic import dims, generic
from mlcflow.graph.interface import entry_points
from mlcflow.graph.kernel import loop_extents
from mlcflow.graph.linalg_ops import (
    indexing_maps,
    inputs,
    is_fill,
    is_generic,
    outputs,
    owner,
    payload,
)
from mlcflow.graph.prepare import fixed_parameters
from mlcflow.graph.tiled_image import replace_by_tiles
from mlcflow.graph.winograd_matrices import Matrix, Winograd, winograd_matrices
from mlcflow.graph.winograd_tiles import POINTS, best_tile
from mlcflow.mlir import arith, ir, linalg, tensor, walk
from mlcflow.target import Target


def use_winograd(target: Target) -> Callable[[ir.Module], None]:
    """The step that rewrites 3x3 convolutions of f32 where that is faster on ``target``.

    Runs when images have their channels last, and before ``prepare``. It takes convolutions
    that move by one pixel, without dilation and groups, whose weights depend on parameters
    alone. Rounding errors are larger than those of a sum of products, and follow the largest
    pixels of a tile.
    """

    def winograd(module: ir.Module) -> None:
        main = next((f for f in entry_points(module) if f.name.value == "main"), None)
        fixed = set(fixed_parameters(main)) if main is not None else set()
        for op in [each for each in walk(module.operation) if _is_small_convolution(each)]:
            tile = best_tile(loop_extents(op), target) if is_fixed(inputs(op)[1], fixed) else 0
            if tile:
                with ir.InsertionPoint(op), op.location:
                    _replace(op, winograd_matrices(POINTS[tile], 3))

    return winograd


def _is_small_convolution(op: ir.OpView) -> bool:
    """Whether ``op`` is ``R[n, y, x, f] += I[n, y + r, x + s, c] * W[r, s, c, f]``, 3x3, of f32."""
    if not is_generic(op) or len(inputs(op)) != 2 or not is_fill(owner(outputs(op)[0])):
        return False
    n, y, x, f, r, s, c = dims(7)
    maps = [list(each.results) for each in indexing_maps(op)]
    if maps != [[n, y + r, x + s, c], [r, s, c, f], [n, y, x, f]]:
        return False
    extents = loop_extents(op)
    types = {str(ir.RankedTensorType(value.type).element_type) for value in op.operands}
    names = [inner.operation.name for inner in payload(op)]
    multiplies = names == ["arith.mulf", "arith.addf"]
    return multiplies and types == {"f32"} and extents[4:6] == (3, 3) and min(extents) > 0


def _replace(op: ir.OpView, how: Winograd) -> None:
    n, height, width, f, _, _, c = loop_extents(op)
    kind, planes = ir.F32Type.get(), how.extent**2
    tiles = [-(-size // how.tile) for size in (height, width)]
    image = _in_whole_tiles(inputs(op)[0], [size * how.tile + 2 for size in tiles])
    count, groups = n * tiles[0] * tiles[1], [[0, 1], [2, 3, 4], [5]]
    read = ir.RankedTensorType.get([planes, count, c], kind)
    read = tensor.collapse_shape(read, _read_tiles(image, how, tiles), groups)
    start = _zeros([planes, count, f])
    product = linalg.batch_matmul(read, _filters(inputs(op)[1], how), outs=[start])
    shape = [how.extent, how.extent, n, *tiles, f]
    product = tensor.expand_shape(ir.RankedTensorType.get(shape, kind), product, groups, [], shape)
    replace_by_tiles(op.results[0], _write_tiles(product, how))
    op.operation.erase()


def _zeros(shape: list[int]) -> ir.Value:
    kind = ir.F32Type.get()
    return linalg.fill(arith.constant(kind, 0.0), outs=[tensor.empty(shape, kind)])


def _in_whole_tiles(image: ir.Value, sizes: list[int]) -> ir.Value:
    """``image`` with zeros at its end, up to ``sizes`` of height and width."""
    kind = ir.RankedTensorType(image.type)
    missing = [want - has for want, has in zip(sizes, kind.shape[1:3], strict=True)]
    low, high = [0] * 4, [0, *missing, 0]
    if not any(high):
        return image
    pad = owner(image)
    if isinstance(pad, tensor.PadOp) and _pads_with_zeros(pad):  # one padding, not two
        image, low = pad.source, list(pad.static_low)
        high = [a + b for a, b in zip(pad.static_high, high, strict=True)]
    zero = arith.constant(kind.element_type, 0.0)
    result = ir.RankedTensorType.get([kind.shape[0], *sizes, kind.shape[3]], kind.element_type)
    padded = tensor.PadOp(result, image, [], [], low, high)
    with ir.InsertionPoint(padded.regions[0].blocks.append(*[ir.IndexType.get()] * 4)):
        tensor.YieldOp(zero)
    return padded.result


def _pads_with_zeros(pad: tensor.PadOp) -> bool:
    body = pad.regions[0].blocks[0].operations
    value = owner(body[len(body) - 1].operands[0])
    if value is None or value.operation.name != "arith.constant":
        return False
    is_zero = ir.FloatAttr(value.operation.attributes["value"]).value == 0
    dynamic = ir.ShapedType.get_dynamic_size()
    return is_zero and dynamic not in [*pad.static_low, *pad.static_high]


def _filters(weights: ir.Value, how: Winograd) -> ir.Value:
    """``[plane, c, f]``: the transformed filters, a product with a matrix of constants."""
    r, s, c, f = ir.RankedTensorType(weights.type).shape
    kind, planes = ir.F32Type.get(), how.extent**2
    line = np.array([[float(x) for x in row] for row in how.filter])
    both = np.kron(line, line).astype(np.float32)
    matrix = arith.constant(
        ir.RankedTensorType.get(both.shape, kind), ir.DenseElementsAttr.get(both)
    )
    flat = ir.RankedTensorType.get([r * s, c * f], kind)
    flat = tensor.collapse_shape(flat, weights, [[0, 1], [2, 3]])
    product = linalg.matmul(matrix, flat, outs=[_zeros([planes, c * f])])
    shape = [planes, c, f]
    return tensor.expand_shape(
        ir.RankedTensorType.get(shape, kind), product, [[0], [1, 2]], [], shape
    )


def _read_tiles(image: ir.Value, how: Winograd, tiles: list[int]) -> ir.Value:
    """``[a, b, n, ty, tx, c]``: what plane ``a, b`` takes of each tile of ``image``."""
    n, _, _, c = ir.RankedTensorType(image.type).shape
    extent, (_, _, batch, ty, tx, channel) = how.extent, dims(6)
    maps = [
        [batch, ty * how.tile + i, tx * how.tile + j, channel]
        for i in range(extent)
        for j in range(extent)
    ]
    return _transformed(image, maps, [extent, extent, n, *tiles, c], how.window, (0, 1))


def _write_tiles(product: ir.Value, how: Winograd) -> ir.Value:
    """``[n, ty, dy, tx, dx, f]``: the pixels of each tile, of what the planes have of it."""
    extent, _, n, ty, tx, f = ir.RankedTensorType(product.type).shape
    batch, row, _, column, _, channel = dims(6)
    places = [ir.AffineExpr.get_constant(number) for number in range(extent)]
    maps = [[a, b, batch, row, column, channel] for a in places for b in places]
    return _transformed(product, maps, [n, ty, how.tile, tx, how.tile, f], how.result, (2, 4))


def _transformed(
    source: ir.Value,
    maps: list[list[ir.AffineExpr]],
    shape: list[int],
    matrix: Matrix,
    loops: tuple[int, int],
) -> ir.Value:
    """``matrix @ X @ matrix.T``, of which each iteration gives the element at ``loops``.

    ``maps``: where the elements of the square X are in ``source``, row by row.
    """
    every, side = dims(len(shape)), len(matrix[0])

    def body(*elements: ir.Value) -> ir.Value:
        row, column = (linalg.IndexOp(loop).result for loop in loops)
        columns = [elements[number : side * side : side] for number in range(side)]
        line = [pick(row, [_combined(each, column) for each in matrix]) for column in columns]
        return pick(column, [_combined(each, line) for each in matrix])

    start = tensor.empty(shape, ir.F32Type.get())
    return generic([source] * len(maps), start, [*maps, every], ["parallel"] * len(shape), body)


def _combined(numbers: Sequence[Fraction], elements: Sequence[ir.Value]) -> ir.Value:
    """The sum of ``elements``, each times its number; one alone needs no multiplication."""
    contract = arith.FastMathFlags.contract
    pairs = [(x, value) for x, value in zip(numbers, elements, strict=True) if x]
    (first, total), *rest = sorted(pairs, key=lambda pair: pair[0] != 1)
    if first != 1:
        total = arith.mulf(total, arith.constant(ir.F32Type.get(), float(first)), fastmath=contract)
    for number, value in rest:
        if number == -1:
            total = arith.subf(total, value, fastmath=contract)
            continue
        if number != 1:
            factor = arith.constant(ir.F32Type.get(), float(number))
            value = arith.mulf(value, factor, fastmath=contract)
        total = arith.addf(total, value, fastmath=contract)
    return total
