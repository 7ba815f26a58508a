"""Values that depend on nothing but where they are, such as those of a causal mask."""

from __future__ import annotations

from mlcflow.graph.generic import generic
from mlcflow.graph.linalg_ops import (
    captured,
    indexing_maps,
    inputs,
    is_elementwise,
    is_generic,
    iterators,
    outputs,
    owner,
    payload,
)
from mlcflow.mlir import arith, ir, linalg, walk


def compute_positions(module: ir.Module) -> None:
    """Let elementwise operations compute such values instead of reading them from memory."""
    for op in walk(module.operation):
        if is_generic(op) and is_elementwise(op) and len(op.results) == 1:
            known = [value for value in inputs(op) if _is_made(value)]
            others = [value for value in inputs(op) if not _is_constant(value)]
            if known and set(known) != set(others):
                _rebuild(op, known)


def _is_constant(value: ir.Value) -> bool:
    constant = owner(value)
    return constant is not None and constant.operation.name == "arith.constant"


def _is_made(value: ir.Value) -> bool:
    """Whether an elementwise operation makes ``value`` of positions and single numbers."""
    op = owner(value)
    if op is None or not is_generic(op) or not is_elementwise(op) or len(op.results) != 1:
        return False
    if any(list(use.uses) for use in list(op.regions[0].blocks[0].arguments)[len(inputs(op)) :]):
        return False  # it reads what it overwrites
    names = [inner.operation.name for inner in payload(op)]
    return (
        all(name.startswith(("arith.", "linalg.index")) for name in names)
        and not any(isinstance(value.type, ir.ShapedType) for value in captured(op))
        and all(_is_number(each) or _is_made(each) for each in inputs(op))
        and all(_is_simple(each) for each in indexing_maps(op))
    )


def _is_simple(affine_map: ir.AffineMap) -> bool:
    return all(isinstance(e, ir.AffineDimExpr) for e in affine_map.results)


def _is_number(value: ir.Value) -> bool:
    return _splat(value) is not None or not isinstance(value.type, ir.ShapedType)


def _splat(value: ir.Value) -> ir.Attribute | None:
    """The number that all elements of a constant are."""
    constant = owner(value)
    if constant is None or not _is_constant(value) or not isinstance(value.type, ir.ShapedType):
        return None
    elements = constant.attributes["value"]
    is_splat = isinstance(elements, ir.DenseElementsAttr) and elements.is_splat
    return elements.get_splat_value() if is_splat else None


def _rebuild(op: ir.OpView, known: list[ir.Value]) -> None:
    maps, depth = indexing_maps(op), len(iterators(op))
    read = [
        (value, each) for value, each in zip(inputs(op), maps, strict=False) if value not in known
    ]

    def body(*arguments: ir.Value) -> ir.Value:
        given, values = iter(arguments), []
        for value, each in zip(inputs(op), maps, strict=False):
            values.append(_made(value, _places(each)) if value in known else next(given))
        return _copy(op, [*values, arguments[-1]], [linalg.IndexOp(n).result for n in range(depth)])

    with ir.InsertionPoint(op), op.location:
        result = generic(
            [value for value, _ in read],
            outputs(op)[0],
            [*(list(each.results) for _, each in read), list(maps[-1].results)],
            iterators(op),
            body,
        )
    op.results[0].replace_all_uses_with(result)
    op.operation.erase()


def _places(affine_map: ir.AffineMap) -> list[ir.Value]:
    """The position in an operand, inside the body of a generic."""
    return [
        linalg.IndexOp(expression.position).result
        if isinstance(expression, ir.AffineDimExpr)
        else arith.constant(ir.IndexType.get(), ir.AffineConstantExpr(expression).value)
        for expression in affine_map.results
    ]


def _made(value: ir.Value, at: list[ir.Value]) -> ir.Value:
    """The element of ``value`` at a position."""
    if not isinstance(value.type, ir.ShapedType):
        return value
    number = _splat(value)
    if number is not None:
        return arith.constant(number.type, number)
    op = value.owner.opview
    loops = {e.position: place for e, place in zip(indexing_maps(op)[-1].results, at, strict=True)}
    values = [
        _made(each, [loops[e.position] for e in affine_map.results])
        for each, affine_map in zip(inputs(op), indexing_maps(op), strict=False)
    ]
    return _copy(op, values, [loops[number] for number in sorted(loops)])


def _copy(op: ir.OpView, values: list[ir.Value], at: list[ir.Value]) -> ir.Value:
    """The result of the body of ``op`` on ``values``, at a position of its loops."""
    block = op.operation.regions[0].blocks[0]
    known = dict(zip(block.arguments, values, strict=False))
    for inner in list(block.operations)[:-1]:
        if isinstance(inner, linalg.IndexOp):
            known[inner.result] = at[ir.IntegerAttr(inner.attributes["dim"]).value]
            continue
        copy = inner.operation.clone()
        for number, operand in enumerate(copy.operands):
            copy.operands[number] = known.get(operand, operand)
        known |= dict(zip(inner.operation.results, copy.results, strict=True))
    (result,) = block.operations[len(block.operations) - 1].operands
    return known.get(result, result)
