"""Kernels of attention: ``softmax(Q K^T) V`` without the whole matrix of scores.

The weights of a query need all of its scores, and those of no other query. So the two products
and what is done to a row of scores between them make one kernel, whose schedule keeps the
scores of some queries at a time.
"""

from __future__ import annotations

from mlcflow.graph.attention_form import arrange
from mlcflow.graph.attention_products import (
    Product,
    Suits,
    is_product,
    is_rounding,
    is_transpose,
    is_widening,
    kind_of,
    product_of,
    source,
)
from mlcflow.graph.heads import separate_heads
from mlcflow.graph.kernel import loop_extents
from mlcflow.graph.linalg_ops import (
    captured,
    has_assertion,
    indexing_maps,
    inputs,
    is_elementwise,
    is_fill,
    is_identity,
    outputs,
    owner,
    payload,
)
from mlcflow.graph.narrow_factors import PRODUCTS
from mlcflow.graph.outline import graphs, outline
from mlcflow.graph.rows import BYTES, row_chain
from mlcflow.graph.same_operation import element_type
from mlcflow.graph.split_loops import fold_reshapes
from mlcflow.mlir import ir

_PAYLOAD = ("arith.", "math.", "linalg.index")
"""What is done to scores, which may depend on where they are."""

FEWEST = 8
"""Queries and keys from which on a kernel of its own pays."""


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
            for op in [each for each in block.operations if is_product(each)]:
                separate_heads(op, suits)
            fold_reshapes(block)
            found = [_group(op, suits) for op in block.operations if is_product(op)]
            for group in filter(None, found):
                arrange(outline(group, "attention", symbols))


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
    while weights in chain and (is_widening(weights) or is_rounding(weights)):
        weights = owner(inputs(weights)[0])
    if weights not in chain or not _normalizes(weights):
        return []
    group = _with_scores([*chain, values], (*form.batch, form.rows, form.depth))
    products = [op for op in group if is_product(op)]
    if len(products) != 2 or not _suit(next(op for op in products if op != values), values, suits):
        return []
    group += [op for product in products for value in inputs(product) for op in source(value)]
    group += _result(values, rounded=kind_of(inputs(values)[1]) != "f32")
    order = {op.operation: number for number, op in enumerate(values.operation.block.operations)}
    return [op.opview for op in sorted({op.operation for op in group}, key=order.__getitem__)]


def _result(values: ir.OpView, *, rounded: bool) -> list[ir.OpView]:
    """What transposes the product with V, and rounds it, in any order."""
    found: list[ir.OpView] = []
    while len(users := _users(found[-1] if found else values)) == 1:
        op = next(iter(users)).opview
        if not is_transpose(op) and not (rounded and is_rounding(op)):
            break
        found.append(op)
    return found


def _suit(scores: ir.OpView, values: ir.OpView, suits: Suits) -> bool:
    first, last, products = product_of(scores), product_of(values), (scores, values)
    factors = {kind_of(value) for op in products for value in inputs(op)}
    sums = {str(element_type(op.results[0])) for op in products}
    if first is None or last is None or len(factors) != 1 or sums != {"f32"}:
        return False
    widened = [op for op in products if str(element_type(inputs(op)[0])) not in factors]
    are_plain = all(op.operation.name in PRODUCTS or _multiplies(op) for op in widened)
    return are_plain and suits(first, last, factors.pop())


def _multiplies(op: ir.OpView) -> bool:
    """Whether ``op`` converts nothing."""
    return [inner.operation.name for inner in payload(op)] == ["arith.mulf", "arith.addf"]


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
        for value in inputs(op) if not is_product(op) else []:
            producer = owner(value)
            if producer is None or producer.operation in found:
                continue
            is_scores = is_product(producer) and _is_scores(producer, extents)
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
