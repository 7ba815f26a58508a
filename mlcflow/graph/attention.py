"""Kernels of attention: ``softmax(Q K^T) V`` without the whole matrix of scores.

The weights of a query need all of its scores, and those of no other query. So the two products
and what is done to a row of scores between them make one kernel, whose schedule keeps the
scores of some queries at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mlcflow.graph.attention_form import arrange
from mlcflow.graph.kernel import loop_extents
from mlcflow.graph.linalg_ops import (
    captured,
    has_assertion,
    indexing_maps,
    inputs,
    is_contraction,
    is_copy,
    is_elementwise,
    is_fill,
    is_generic,
    is_identity,
    outputs,
    owner,
    payload,
)
from mlcflow.graph.narrow_factors import PRODUCTS
from mlcflow.graph.outline import graphs, outline
from mlcflow.graph.rows import BYTES, row_chain
from mlcflow.graph.same_operation import element_type
from mlcflow.mlir import ir

_PAYLOAD = ("arith.", "math.", "linalg.index")
"""What is done to scores, which may depend on where they are."""

FEWEST = 8
"""Queries and keys from which on a kernel of its own pays."""


Suits = Callable[["Product", "Product", str], bool]
"""Whether a rule is for these products, of scores and with V, of factors of an element type."""


def partition_attention(module: ir.Module) -> None:
    """Make kernels of attention in f32, of ``FEWEST`` queries and keys."""
    make_kernels(module, _is_of_f32)


def make_kernels(module: ir.Module, suits: Suits) -> None:
    """Move each product of scores, what is done to their rows, and the product with V to a kernel.

    The kernel reads Q, K and V as they lie, and writes the result as it is wanted: transposes
    around it become a part of it. The division by the sums comes last, where a row is short.
    ``suits`` chooses.
    """
    symbols = ir.SymbolTable(module.operation)
    for function in graphs(module):
        for block in function.regions[0].blocks:
            found = [_group(op, suits) for op in block.operations if _is_product(op)]
            for group in filter(None, found):
                arrange(outline(group, "attention", symbols))


@dataclass(frozen=True)
class Product:
    """The loops of a product ``C[b, m, n] += A[b, m, k] B[..]``, ``b`` perhaps missing."""

    batch: tuple[int, ...]
    rows: int
    columns: int
    depth: int


def product_of(op: ir.OpView) -> Product | None:
    """How large a product is; ``None`` if it has another form. B may lie in any order."""
    extents, maps = loop_extents(op), indexing_maps(op)
    if len(extents) not in (3, 4) or len(maps) != 3 or min(extents) < 1:
        return None
    *batch, m, n, k = (ir.AffineExpr.get_dim(i, op.context) for i in range(len(extents)))
    right = list(maps[1].results)
    if list(maps[2].results) != [*batch, m, n] or sorted(map(str, right)) != sorted(
        map(str, [*batch, n, k])
    ):
        return None
    if sorted(map(str, maps[0].results)) != sorted(map(str, [*batch, m, k])):
        return None
    return Product(extents[:-3], *extents[-3:])


def _is_product(op: ir.OpView) -> bool:
    return is_contraction(op) and len(op.operation.results) == 1 and len(inputs(op)) == 2


def _is_of_f32(scores: Product, values: Product, kind: str) -> bool:
    return kind == "f32" and min(values.rows, values.depth) >= FEWEST


def _group(values: ir.OpView, suits: Suits) -> list[ir.OpView]:
    """The operations of the attention whose last product is ``values``, in program order."""
    form = product_of(values)
    weights = owner(inputs(values)[0])
    if form is None or weights is None or not _is_in_order(values):
        return []
    chain = row_chain(weights)
    if not chain or _users(weights) != {values.operation}:
        return []
    while weights in chain and (_is_widening(weights) or _is_rounding(weights)):
        weights = owner(inputs(weights)[0])
    if weights not in chain or not _normalizes(weights):
        return []
    group = _with_scores([*chain, values], (*form.batch, form.rows, form.depth))
    products = [op for op in group if _is_product(op)]
    if len(products) != 2 or not _suit(next(op for op in products if op != values), values, suits):
        return []
    group += [op for product in products for value in inputs(product) for op in _source(value)]
    group += _result(values, rounded=_kind(inputs(values)[1]) != "f32")
    order = {op.operation: number for number, op in enumerate(values.operation.block.operations)}
    return [op.opview for op in sorted({op.operation for op in group}, key=order.__getitem__)]


def _result(values: ir.OpView, *, rounded: bool) -> list[ir.OpView]:
    """What transposes the product with V, and rounds it."""
    found: list[ir.OpView] = []
    for suits in (_is_transpose, *([_is_rounding] if rounded else [])):
        users = _users(found[-1] if found else values)
        if len(users) == 1 and suits(next(iter(users)).opview):
            found.append(next(iter(users)).opview)
    return found


def _source(value: ir.Value) -> list[ir.OpView]:
    """What transposes and widens ``value`` for its only reader, the last first."""
    found: list[ir.OpView] = []
    while (op := owner(value)) is not None and len(list(value.uses)) == 1:
        if not _is_transpose(op) and not _is_widening(op):
            break
        found.append(op)
        value = inputs(op)[0]
    return found


def _suit(scores: ir.OpView, values: ir.OpView, suits: Suits) -> bool:
    first, last, products = product_of(scores), product_of(values), (scores, values)
    factors = {_kind(value) for op in products for value in inputs(op)}
    sums = {str(element_type(op.results[0])) for op in products}
    if first is None or last is None or len(factors) != 1 or sums != {"f32"}:
        return False
    widened = [op for op in products if str(element_type(inputs(op)[0])) not in factors]
    are_named = all(op.operation.name in PRODUCTS for op in widened)
    return are_named and suits(first, last, factors.pop())


def _kind(value: ir.Value) -> str:
    """The element type of a factor before it was widened."""
    source = _source(value)
    return str(element_type(inputs(source[-1])[0] if source else value))


def _is_widening(op: ir.OpView) -> bool:
    return _converts(op, "arith.extf")


def _is_rounding(op: ir.OpView) -> bool:
    return _converts(op, "arith.truncf")


def _converts(op: ir.OpView, name: str) -> bool:
    """Whether ``op`` converts each element of a tensor, and nothing else."""
    names = [inner.operation.name for inner in payload(op)] if is_generic(op) else []
    return is_elementwise(op) and names == [name] and is_identity(indexing_maps(op)[0])


def _is_in_order(values: ir.OpView) -> bool:
    """Whether a product reads its left matrix as its rows and depth go."""
    left = indexing_maps(values)[0]
    *batch, m, _, k = (ir.AffineExpr.get_dim(i, values.context) for i in range(left.n_dims))
    return list(left.results) == [*batch, m, k]


def _normalizes(weights: ir.OpView) -> bool:
    """Whether ``weights`` are the elements of rows, times or over a number for each row."""
    body = payload(weights)
    if len(body) != 1 or body[0].operation.name not in ("arith.mulf", "arith.divf"):
        return False
    maps = indexing_maps(weights)
    rows = [m for m in maps[:-1] if not is_identity(m)]
    block = weights.regions[0].blocks[0]
    return (
        len(maps) == 3
        and is_identity(maps[0])
        and len(rows) == 1
        and list(body[0].operands) == [block.arguments[0], block.arguments[1]]
        and [str(e) for e in rows[0].results] == [f"d{i}" for i in range(maps[0].n_dims - 1)]
    )


def _with_scores(group: list[ir.OpView], extents: tuple[int, ...]) -> list[ir.OpView]:
    """``group`` and what its rows are made of, down to the product of the scores."""
    found = {op.operation: op for op in group}
    pending = list(group)
    while pending:
        op = pending.pop()
        # What products read are no scores, though it may be as large.
        for value in inputs(op) if not _is_product(op) else []:
            producer = owner(value)
            if producer is None or producer.operation in found:
                continue
            is_scores = _is_product(producer) and _is_scores(producer, extents)
            if (is_scores or _is_epilogue(producer, extents)) and all(
                user in found for user in _users(producer)
            ):
                found[producer.operation] = producer
                pending += found.values()
    return list(found.values())


def _is_scores(op: ir.OpView, extents: tuple[int, ...]) -> bool:
    form = product_of(op)
    start = owner(outputs(op)[0])
    is_filled = start is not None and is_fill(start)
    return form is not None and is_filled and (*form.batch, form.rows, form.columns) == extents


def _is_epilogue(op: ir.OpView, extents: tuple[int, ...]) -> bool:
    """Whether ``op`` changes each score for itself, in a way that vectors can follow."""
    if not is_elementwise(op) or len(op.results) != 1 or loop_extents(op) != extents:
        return False
    names = [inner.operation.name for inner in payload(op)]
    kinds = [v.type.element_type for v in op.operands if isinstance(v.type, ir.ShapedType)]
    return (
        all(name.startswith(_PAYLOAD) for name in names)
        and all(m.is_projected_permutation for m in indexing_maps(op))
        and all(str(kind) in BYTES for kind in kinds)
        and not any(isinstance(value.type, ir.ShapedType) for value in captured(op))
        and not has_assertion(op)
    )


def _users(op: ir.OpView) -> set[ir.Operation]:
    return {use.owner.operation for result in op.results for use in result.uses}


def _is_transpose(op: ir.OpView) -> bool:
    """Whether ``op`` puts the dimensions of a tensor into another order, and nothing else."""
    if not is_generic(op) or not is_copy(op) or len(inputs(op)) != 1:
        return False
    read = indexing_maps(op)[0]
    return read.is_permutation and ir.ShapedType(op.results[0].type).has_static_shape
