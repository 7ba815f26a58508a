"""Kernels that work on one row after the other: softmax, normalizations.

A row is reduced (to its maximum, its mean, ...) and each of its elements changed by the results,
perhaps several times. Done for all rows at once, each of these steps would pass over the whole
tensor in memory; row by row, all but the first find the row in the cache.
"""

from __future__ import annotations

from mlcflow.graph.fuse import fuse_in_rows
from mlcflow.graph.kernel import loop_extents
from mlcflow.graph.linalg_ops import (
    captured,
    combines_inputs,
    elements,
    has_assertion,
    indexing_maps,
    inputs,
    is_elementwise,
    is_empty,
    is_fill,
    is_generic,
    is_windowed,
    iterators,
    outputs,
    owner,
    payload,
)
from mlcflow.graph.naming import kernel_name
from mlcflow.graph.outline import graphs, outline
from mlcflow.graph.powers import use_powers_of_two
from mlcflow.mlir import ir, linalg

BYTES = ("f16", "bf16", "f32", "f64", "i8", "i16", "i32", "i64")
"""Elements that vectors hold as memory does."""


def partition_rows(module: ir.Module) -> None:
    """Move each chain of reductions and elementwise operations over the same rows to a kernel.

    Only the last operation of a chain gives a result. Elementwise work on the result of a
    matrix product before the first reduction stays with the product.
    """
    symbols = ir.SymbolTable(module.operation)
    for function in graphs(module):
        for block in function.regions[0].blocks:
            for group in _groups(block):
                kernel = outline(group, kernel_name(group), symbols)
                fuse_in_rows(kernel)
                use_powers_of_two(kernel)


def _groups(block: ir.Block) -> list[list[ir.OpView]]:
    """The chains of ``block``, the last first: the longest that end in an operation."""
    taken: set[ir.OpView] = set()
    groups = []
    for op in reversed(list(block.operations)):
        group = row_chain(op) if op not in taken else []
        taken.update(group)
        if group:
            groups.append(group)
    return groups


def row_chain(final: ir.OpView) -> list[ir.OpView]:
    """The chain that ends in ``final``, in program order; empty if there is none worth it."""
    if not is_generic(final):
        return []
    loops = len(iterators(final))
    for rows in (loops - 1, loops):
        group = _chain(final, rows) if rows > 0 else []
        reductions = [op for op in group if "reduction" in iterators(op)]
        is_all = is_elementwise(final) and rows == loops - 1
        if len(reductions) > 1 or (reductions and is_all):
            return group
    return []


def _chain(final: ir.OpView, rows: int) -> list[ir.OpView]:
    """``final`` and what it is computed from, as far as that works by rows and serves it alone.

    ``rows``: the leading loops, which all operations of a chain have in common.
    """
    if not _works_by_rows(final, rows):
        return []
    chain = {final.operation: final}
    extents = loop_extents(final)[:rows]
    pending = [final]
    while pending:
        op = pending.pop()
        for value in inputs(op):
            producer = owner(value)
            if producer is None or producer.operation in chain or not is_generic(producer):
                continue
            users = {use.owner for result in producer.results for use in result.uses}
            if (
                all(_is_in(user, chain) for user in users)
                and _works_by_rows(producer, rows)
                and loop_extents(producer)[:rows] == extents
                and all(_reads_its_row(user, value, rows) for user in users)
                and not _is_epilogue(producer)
            ):
                chain[producer.operation] = producer
                # What it reads may have had to wait for this user.
                pending += [producer, *chain.values()]
    order = {op.operation: number for number, op in enumerate(final.operation.block.operations)}
    return sorted(chain.values(), key=lambda op: order[op.operation])


def _is_in(user: ir.Operation, chain: dict[ir.Operation, ir.OpView]) -> bool:
    return user.operation in chain


def _works_by_rows(op: ir.OpView, rows: int) -> bool:
    """Whether an iteration of the leading loops works on a row of each operand.

    ``op`` goes over rows and their elements, one or all, or over rows alone.
    """
    kinds = iterators(op)
    if len(op.results) != 1 or len(kinds) not in (rows, rows + 1) or "reduction" in kinds[:rows]:
        return False
    if "reduction" in kinds:
        if not combines_inputs(op) or not _is_start(outputs(op)[0]):
            return False
        if list(indexing_maps(op)[-1].results) != _dims(op, rows):
            return False
    elif not is_elementwise(op):
        return False
    names = [inner.operation.name for inner in payload(op)]
    return (
        all(name.startswith(("arith.", "math.")) for name in names)
        and not any(isinstance(value.type, ir.ShapedType) for value in captured(op))
        and not has_assertion(op)
        and elements(op.results[0].type) > 0
        and all(
            _is_contiguous(value, affine_map)
            for value, affine_map in zip([*inputs(op), *op.results], indexing_maps(op), strict=True)
        )
    )


def _is_start(value: ir.Value) -> bool:
    start = owner(value)
    return start is not None and is_fill(start) and is_empty(owner(outputs(start)[0]))


def _operands(op: ir.OpView) -> list[tuple[ir.Value, ir.AffineMap]]:
    return list(zip(op.operation.operands, indexing_maps(op), strict=True))


def _is_contiguous(value: ir.Value, affine_map: ir.AffineMap) -> bool:
    """Whether the last loop moves along the last dimension, or not at all."""
    if not isinstance(value.type, ir.RankedTensorType):
        return True
    if str(ir.RankedTensorType(value.type).element_type) not in BYTES and not _vanishes(value):
        return False
    if not affine_map.is_projected_permutation:
        return False
    last = ir.AffineDimExpr.get(affine_map.n_dims - 1, affine_map.context)
    return last not in list(affine_map.results)[:-1]


def _vanishes(value: ir.Value) -> bool:
    """Whether an elementwise operation gives ``value``, a condition, to another one only.

    Both become one.
    """
    users = [use.owner for use in value.uses]
    producer = owner(value)
    is_made = producer is not None and is_elementwise(producer)
    return is_made and len(users) == 1 and is_elementwise(users[0])


def _reads_its_row(user: ir.Operation, value: ir.Value, rows: int) -> bool:
    """Whether ``user`` reads of ``value``, an intermediate result, the row it works on."""
    for operand, affine_map in _operands(user.opview):
        if operand == value:
            results = list(affine_map.results)
            if results not in (_dims(user.opview, rows), _dims(user.opview, affine_map.n_dims)):
                return False
    return value not in outputs(user.opview)


def _dims(op: ir.OpView, count: int) -> list[ir.AffineExpr]:
    return [ir.AffineDimExpr.get(number, op.operation.context) for number in range(count)]


def _is_epilogue(op: ir.OpView) -> bool:
    """Whether an elementwise operation continues a matrix product or convolution."""
    if not is_elementwise(op):
        return False
    for value, affine_map in _operands(op)[:-1]:
        producer = owner(value)
        if producer is None or not producer.operation.name.startswith("linalg."):
            continue
        if is_fill(producer) or len(list(value.uses)) != 1:
            continue
        in_order = list(affine_map.results) == _dims(op, affine_map.n_dims)
        if in_order and (_is_epilogue(producer) or _is_product(producer)):
            return True
    return False


def _is_product(op: ir.OpView) -> bool:
    is_named = not is_generic(op)
    return is_named or is_windowed(op) or linalg.isa_contraction_op(op.operation)
