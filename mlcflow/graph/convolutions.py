"""Convolutions in the form in which their schedule finds a matrix product."""

from __future__ import annotations

from mlcflow.graph.linalg_ops import inputs, outputs
from mlcflow.mlir import arith, ir, linalg, tensor, walk

_PARALLEL = ("parallel", "parallel", "parallel", "parallel", "reduction", "reduction", "reduction")


def lay_out_convolutions(module: ir.Module) -> None:
    """Turn 2-d convolutions of one element type and static shapes into products over channels.

    A 1x1 convolution with step 1 is a matrix product over all pixels. Any other becomes a
    generic over weights laid out as [height, width, out, in], so that for one position of
    the window the weights are a matrix whose rows are contiguous. The transpose of the
    weights depends on parameters alone and moves to ``@prepare``.
    """
    for op in walk(module.operation):
        if isinstance(op, linalg.Conv2DNchwFchwOp) and len(op.operation.results) == 1:
            kinds = [ir.ShapedType(value.type) for value in op.operation.operands]
            is_one_type = len({kind.element_type for kind in kinds}) == 1
            if is_one_type and all(kind.has_static_shape for kind in kinds):
                _lay_out(op)


def _lay_out(op: linalg.Conv2DNchwFchwOp) -> None:
    image, weights = inputs(op)
    steps, gaps = _integers(op, "strides"), _integers(op, "dilations")
    window = list(ir.ShapedType(weights.type).shape)[2:]
    with ir.InsertionPoint(op), op.location:
        if window == [1, 1] and steps == [1, 1]:
            result = _product(image, weights, outputs(op)[0])
        else:
            result = _generic(image, weights, outputs(op)[0], steps, gaps)
    op.results[0].replace_all_uses_with(result)
    op.operation.erase()


def _integers(op: linalg.Conv2DNchwFchwOp, name: str) -> list[int]:
    return [int(value) for value in ir.DenseIntElementsAttr(op.attributes[name])]


def _product(image: ir.Value, weights: ir.Value, start: ir.Value) -> ir.Value:
    """``result[n, f, p] += weights[f, c] * image[n, c, p]`` over pixels ``p``."""
    n, f, p, c = (ir.AffineExpr.get_dim(i) for i in range(4))
    kind = ir.RankedTensorType(start.type)
    batch, _, height, width = kind.shape
    flat = _reshaped(image, [[0], [1], [2, 3]])
    matrix = _reshaped(weights, [[0], [1, 2, 3]])
    sums = _reshaped(start, [[0], [1], [2, 3]])
    maps = [[f, c], [n, c, p], [n, f, p]]
    result = _multiply_add([matrix, flat], sums, maps, ("parallel",) * 3 + ("reduction",))
    sizes = [batch, kind.shape[1], height, width]
    return tensor.expand_shape(kind, result, [[0], [1], [2, 3]], [], sizes)


def _generic(
    image: ir.Value, weights: ir.Value, start: ir.Value, steps: list[int], gaps: list[int]
) -> ir.Value:
    """``result[n, f, y, x] += weights[r, s, f, c] * image[n, c, y*step + r*gap, ...]``."""
    n, f, y, x, r, s, c = (ir.AffineExpr.get_dim(i) for i in range(7))
    kind = ir.RankedTensorType(weights.type)
    out, into, height, width = kind.shape
    empty = tensor.empty([height, width, out, into], kind.element_type)
    turned = linalg.transpose(weights, outs=[empty], permutation=[2, 3, 0, 1]).results[0]
    row, column = y * steps[0] + r * gaps[0], x * steps[1] + s * gaps[1]
    maps = [[r, s, f, c], [n, c, row, column], [n, f, y, x]]
    return _multiply_add([turned, image], start, maps, _PARALLEL)


def _reshaped(value: ir.Value, groups: list[list[int]]) -> ir.Value:
    kind = ir.RankedTensorType(value.type)
    shape = []
    for group in groups:
        size = 1
        for dimension in group:
            size *= kind.shape[dimension]
        shape.append(size)
    return tensor.collapse_shape(ir.RankedTensorType.get(shape, kind.element_type), value, groups)


def _multiply_add(
    operands: list[ir.Value], start: ir.Value, maps: list[list], kinds: tuple[str, ...]
) -> ir.Value:
    depth = len(kinds)
    attributes = [ir.AffineMapAttr.get(ir.AffineMap.get(depth, 0, results)) for results in maps]
    iterators = [ir.Attribute.parse(f"#linalg.iterator_type<{kind}>") for kind in kinds]
    generic = linalg.GenericOp(
        [start.type],
        operands,
        [start],
        ir.ArrayAttr.get(attributes),
        ir.ArrayAttr.get(iterators),
    )
    element = ir.ShapedType(start.type).element_type
    block = generic.regions[0].blocks.append(
        *[ir.ShapedType(v.type).element_type for v in operands], element
    )
    with ir.InsertionPoint(block):
        left, right, total = block.arguments
        is_float = isinstance(element, ir.FloatType)
        multiply, add = (arith.mulf, arith.addf) if is_float else (arith.muli, arith.addi)
        linalg.YieldOp([add(total, multiply(left, right))])
    return generic.results[0]
