"""Indices that are data: a wrong one is an error, and reads and writes nothing else.

torch-mlir checks the indices of some operations (embedding, gather) and not of others
(indexing, index_select, scatter), and no check keeps the access itself from happening.
"""

from __future__ import annotations

from mlcflow.graph.assertions import check
from mlcflow.mlir import arith, cf, ir, linalg, tensor, walk

_TORCH_MLIR_CHECKS = ("index must be smaller than dim size", "index must be larger or equal to 0")

# How an index comes about. The largest among the parts of a computation holds.
FIXED, INTEGER, FLOAT = range(3)


def guard_gathers(module: ir.Module) -> None:
    """Check every index that is read from a tensor, and replace a wrong one by 0.

    The check is an assertion, which becomes an ``ExecutionError``. An index computed from
    floating-point data is replaced without an assertion: interpolation on a grid reads beyond
    the border by design, and masks what it read.
    """
    known: dict[ir.Value, int] = {}
    for op in walk(module.operation):
        if isinstance(op, tensor.ExtractOp):
            _guard_extract(op, known)
        elif op.operation.name == "tm_tensor.scatter":
            _match_counts(op)
            _guard_scatter(op)


def _guard_extract(op: tensor.ExtractOp, known: dict[ir.Value, int]) -> None:
    checked = False
    for number, index in enumerate(op.indices):
        source = origin(index, known)
        if source == FIXED:
            continue
        with ir.InsertionPoint(op), op.location:
            size = _size(op.tensor, number)
            inside = arith.cmpi(arith.CmpIPredicate.ult, index, size)
            if source == INTEGER:
                check(inside, _message(op.tensor, number))
                checked = True
            valid = arith.select(inside, index, arith.constant(ir.IndexType.get(), 0))
        op.operation.operands[1 + number] = valid
    if checked:  # ours takes the place of torch-mlir's
        for other in list(op.operation.block.operations):
            if isinstance(other, cf.AssertOp) and other.msg.value in _TORCH_MLIR_CHECKS:
                other.operation.erase()


def origin(value: ir.Value, known: dict[ir.Value, int]) -> int:
    """What a number is computed from: positions and sizes, integer data, or other data."""
    if value not in known:
        known[value] = FIXED  # a cycle adds nothing
        known[value] = _trace(value, known)
    return known[value]


def _trace(value: ir.Value, known: dict[ir.Value, int]) -> int:
    data = INTEGER if isinstance(value.type, ir.IntegerType) else FLOAT
    owner = value.owner
    if isinstance(owner, ir.Block):
        return data if isinstance(owner.owner, linalg.GenericOp) else FIXED
    if isinstance(owner, tensor.ExtractOp):
        return data
    if isinstance(owner, arith.FPToSIOp | arith.FPToUIOp):
        return FLOAT
    scalars = [v for v in owner.operands if not isinstance(v.type, ir.ShapedType)]
    return max((origin(v, known) for v in scalars), default=FIXED)


def _size(source: ir.Value, dimension: int) -> ir.Value:
    """The size of a dimension, as an ``index`` at the insertion point."""
    kind = ir.RankedTensorType(source.type)
    if kind.is_dynamic_dim(dimension):
        return tensor.dim(source, arith.constant(ir.IndexType.get(), dimension))
    return arith.constant(ir.IndexType.get(), kind.get_dim_size(dimension))


def _message(source: ir.Value, dimension: int) -> str:
    kind = ir.RankedTensorType(source.type)
    size = "" if kind.is_dynamic_dim(dimension) else f" of size {kind.get_dim_size(dimension)}"
    return f"an index is out of range for dimension {dimension}{size}"


def _match_counts(op: ir.OpView) -> None:
    """Check that there are as many updates as indices, and let the types say so.

    A boolean mask selects a number of elements that only the data tells. Where the number of
    updates is known, canonicalization writes it into one type only, which does not verify.
    """
    updates, indices = op.operands[0], op.operands[1]
    if isinstance(updates.owner, tensor.CastOp):
        updates = updates.owner.source
    values = [updates, indices]
    known = {ir.RankedTensorType(v.type).get_dim_size(0) for v in values if not _is_open(v)}
    if len(known) != 1 or not any(map(_is_open, values)):
        return
    with ir.InsertionPoint(op), op.location:
        equal = arith.cmpi(arith.CmpIPredicate.eq, _size(updates, 0), _size(indices, 0))
        cf.assert_(equal, "the number of values differs from the number of selected elements")
        for number, value in enumerate(values):
            kind = ir.RankedTensorType(value.type)
            shape = [*known, *kind.shape[1:]]
            cast = tensor.cast(ir.RankedTensorType.get(shape, kind.element_type), value)
            op.operation.operands[number] = cast


def _is_open(value: ir.Value) -> bool:
    return ir.RankedTensorType(value.type).is_dynamic_dim(0)


def _guard_scatter(op: ir.OpView) -> None:
    """Check the indices of ``tm_tensor.scatter``: int[updates, k] into k of its dimensions."""
    indices, target = op.operands[1], op.operands[2]
    mapped = list(ir.DenseI64ArrayAttr(op.attributes["dimension_map"]))
    kind = ir.RankedTensorType(indices.type)
    with ir.InsertionPoint(op), op.location:
        sizes = [arith.index_cast(kind.element_type, _size(target, d)) for d in mapped]
        count = [_size(indices, d) for d in range(kind.rank) if kind.is_dynamic_dim(d)]
        result = tensor.empty(_sizes(kind, count), kind.element_type)
        identity = ir.AffineMapAttr.get(ir.AffineMap.get_identity(kind.rank))
        parallel = ir.Attribute.parse("#linalg.iterator_type<parallel>")
        generic = linalg.GenericOp(
            [kind],
            [indices],
            [result],
            ir.ArrayAttr.get([identity] * 2),
            ir.ArrayAttr.get([parallel] * kind.rank),
        )
        block = generic.regions[0].blocks.append(kind.element_type, kind.element_type)
        with ir.InsertionPoint(block):
            linalg.YieldOp([_checked(block.arguments[0], sizes, target, mapped)])
    op.operation.operands[1] = generic.results[0]


def _checked(
    value: ir.Value, sizes: list[ir.Value], target: ir.Value, mapped: list[int]
) -> ir.Value:
    """``value`` if it is below the size that its column stands for, else 0."""
    size, index = sizes[0], ir.IndexType.get()
    for column in range(1, len(sizes)):
        here = arith.cmpi(
            arith.CmpIPredicate.eq, linalg.IndexOp(1).result, arith.constant(index, column)
        )
        size = arith.select(here, sizes[column], size)
    inside = arith.cmpi(arith.CmpIPredicate.ult, value, size)
    check(inside, _message(target, mapped[0]) if len(sizes) == 1 else _MANY)
    return arith.select(inside, value, arith.constant(value.type, 0))


_MANY = "an index is out of range for its dimension"


def _sizes(kind: ir.RankedTensorType, dynamic: list[ir.Value]) -> list[int | ir.Value]:
    rest = iter(dynamic)
    return [
        next(rest) if kind.is_dynamic_dim(d) else kind.get_dim_size(d) for d in range(kind.rank)
    ]
