"""The two products of attention, and what moves and converts what they read and give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mlcflow.graph.kernel import loop_extents
from mlcflow.graph.linalg_ops import (
    indexing_maps,
    inputs,
    is_contraction,
    is_copy,
    is_elementwise,
    is_generic,
    is_identity,
    owner,
    payload,
)
from mlcflow.graph.same_operation import element_type
from mlcflow.mlir import ir


@dataclass(frozen=True)
class Product:
    """The loops of a product ``C[b, m, n] += A[b, m, k] B[..]``, ``b`` several, or none."""

    batch: tuple[int, ...]
    rows: int
    columns: int
    depth: int


Suits = Callable[[Product, Product, str], bool]
"""Whether a rule is for these products, of scores and with V, of factors of an element type."""


def product_of(op: ir.OpView) -> Product | None:
    """How large a product is; ``None`` if it has another form.

    A and B may lie in any order, and B may be the same for all iterations of some of ``b``.
    """
    extents, maps = loop_extents(op), indexing_maps(op)
    if len(extents) < 3 or len(maps) != 3 or min(extents) < 1:
        return None
    *batch, m, n, k = (ir.AffineExpr.get_dim(i, op.context) for i in range(len(extents)))
    left, right, result = (list(each.results) for each in maps)
    shared = [loop for loop in batch if loop in right]
    if result != [*batch, m, n] or not _are_same(left, [*batch, m, k]):
        return None
    return Product(extents[:-3], *extents[-3:]) if _are_same(right, [*shared, n, k]) else None


def _are_same(some: list[ir.AffineExpr], others: list[ir.AffineExpr]) -> bool:
    return sorted(map(str, some)) == sorted(map(str, others))


def is_product(op: ir.OpView) -> bool:
    """Whether ``op`` sums products of the elements of two tensors."""
    return is_contraction(op) and len(op.operation.results) == 1 and len(inputs(op)) == 2


def source(value: ir.Value) -> list[ir.OpView]:
    """What moves and widens ``value`` for its only reader, the last first."""
    found: list[ir.OpView] = []
    while (op := owner(value)) is not None and len(list(value.uses)) == 1:
        if not moves(op) and not is_widening(op):
            break
        found.append(op)
        value = inputs(op)[0]
    return found


def kind_of(value: ir.Value) -> str:
    """The element type of a factor before it was widened."""
    steps = source(value)
    return str(element_type(inputs(steps[-1])[0] if steps else value))


def is_widening(op: ir.OpView) -> bool:
    """Whether ``op`` makes floating-point numbers of a tensor wider, and nothing else."""
    return _converts(op, "arith.extf")


def is_rounding(op: ir.OpView) -> bool:
    """Whether ``op`` makes floating-point numbers of a tensor narrower, and nothing else."""
    return _converts(op, "arith.truncf")


def _converts(op: ir.OpView, name: str) -> bool:
    names = [inner.operation.name for inner in payload(op)] if is_generic(op) else []
    return is_elementwise(op) and names == [name] and is_identity(indexing_maps(op)[0])


def moves(op: ir.OpView) -> bool:
    """Whether ``op`` gives the elements of a tensor in another order, perhaps several times."""
    if not is_generic(op) or not is_copy(op) or len(inputs(op)) != 1:
        return False
    kind = inputs(op)[0].type
    is_known = isinstance(kind, ir.ShapedType) and ir.ShapedType(kind).has_static_shape
    return is_known and indexing_maps(op)[0].is_projected_permutation


def is_transpose(op: ir.OpView) -> bool:
    """Whether ``op`` gives the elements of a tensor in another order."""
    return moves(op) and indexing_maps(op)[0].is_permutation
