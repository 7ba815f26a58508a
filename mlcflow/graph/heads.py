"""Attention of several heads of several batches: what a head's number is made of.

A product of matrices has one loop over all heads of all batches. The operations around it often
have a loop for each: a mask differs between batches, heads lie between queries, and several heads
of Q go with one of K. To be one kernel all need the same loops.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from mlcflow.graph.attention_products import (
    Suits,
    is_product,
    is_rounding,
    is_transpose,
    is_widening,
    moves,
    product_of,
)
from mlcflow.graph.kernel import loop_extents
from mlcflow.graph.linalg_ops import (
    indexing_maps,
    inputs,
    is_elementwise,
    is_linalg,
    loop_kinds,
    owner,
)
from mlcflow.graph.same_operation import element_type
from mlcflow.graph.split_loops import RESHAPES, split_loops
from mlcflow.mlir import ir, tensor

Range = tuple[int, int]
"""By how much a step in a dimension changes the number of the head, and that times the size of the
dimension."""

Ranges = dict[int, Range]
"""Of dimensions, or loops."""

Places = dict[ir.Operation, Ranges]
"""The loops over heads of operations."""

Accepts = Callable[[ir.OpView, Ranges], bool]
"""Whether an operation with these loops over heads belongs to an attention."""


def separate_heads(values: ir.OpView, suits: Suits) -> None:
    """Give everything between the products of an attention the same loops over heads.

    ``values`` is what may be its second product, of matrices one for each head. Does nothing if
    there is no first one, or ``suits`` is not for them.
    """
    last = product_of(values)
    if last is None or len(last.batch) != 1:
        return
    heads = {0: (1, last.batch[0])}
    places: Places = {values.operation: heads}
    _climb(inputs(values)[0], heads, places, _is_of_scores(last.batch[0]))
    found = [op.opview for op in places if op != values.operation]
    products = [op for op in found if is_product(op)]
    first = product_of(products[0]) if len(products) == 1 else None
    if first is None or (first.rows, first.columns) != (last.rows, last.depth):
        return
    if all("reduction" not in loop_kinds(op) for op in found if op not in products):
        return
    factors = [*inputs(products[0]), inputs(values)[1]]
    kinds = {_climb(value, heads, places, _is_of_factors) for value in factors}
    if len(kinds) == 1 and suits(first, last, kinds.pop()):
        _descend(values.results[0], heads, places)
        _split(places, values.operation.block)


def _split(places: Places, block: ir.Block) -> None:
    """Split each loop over heads where any other ends."""
    ends = sorted({end for loops in places.values() for each in loops.values() for end in each})
    if any(larger % smaller for smaller, larger in itertools.pairwise(ends)):
        return
    work = [(op, places[op.operation]) for op in block.operations if op.operation in places]
    for op, loops in work:
        sizes = {}
        for loop, (low, high) in loops.items():
            inside = [end for end in ends if low <= end <= high]
            if len(inside) > 2:
                sizes[loop] = [b // a for a, b in itertools.pairwise(inside)][::-1]
        if sizes:
            split_loops(op, sizes)


def _is_of_scores(heads: int) -> Accepts:
    """Whether an operation may be a step from scores to weights."""

    def accepts(op: ir.OpView, loops: Ranges) -> bool:
        count = math.prod(high // low for low, high in loops.values())
        is_step = is_product(op) or is_elementwise(op) or "reduction" in loop_kinds(op)
        return is_step and count == heads

    return accepts


def _is_of_factors(op: ir.OpView, _: Ranges) -> bool:
    return moves(op) or is_widening(op)


def _climb(value: ir.Value, dims: Ranges, places: Places, accepts: Accepts) -> str:
    """Find the loops over heads of what makes ``value``, whose dimensions over heads are ``dims``.

    As far as operations are accepted, and not behind a product. Gives the element type of what the
    last of them reads.
    """
    op, kind = owner(value), str(element_type(value))
    if isinstance(op, RESHAPES):
        moved = _through(op, dims, is_split=isinstance(op, tensor.CollapseShapeOp))
        return _climb(op.src, moved, places, accepts) if moved else kind
    if op is None or op.operation in places or not _is_plain(op):
        return kind
    written = list(indexing_maps(op)[-1].results)
    loops = {written[dim].position: each for dim, each in dims.items()}
    if not accepts(op, loops):
        return kind
    places[op.operation] = loops
    for read, each in zip(inputs(op), indexing_maps(op), strict=False):
        found = {n: loops[e.position] for n, e in enumerate(each.results) if e.position in loops}
        if found and not is_product(op):
            kind = _climb(read, found, places, accepts)
    return kind


def _descend(value: ir.Value, dims: Ranges, places: Places) -> None:
    """Find the loops over heads of what transposes and rounds ``value`` for its only reader."""
    users = [use.owner.opview for use in value.uses]
    if len(users) != 1:
        return
    (op,) = users
    if isinstance(op, RESHAPES):
        if moved := _through(op, dims, is_split=isinstance(op, tensor.ExpandShapeOp)):
            _descend(op.result, moved, places)
    elif _is_plain(op) and (is_transpose(op) or is_rounding(op)):
        read = list(indexing_maps(op)[0].results)
        places[op.operation] = {read[dim].position: each for dim, each in dims.items()}
        _descend(op.results[0], places[op.operation], places)


def _is_plain(op: ir.OpView) -> bool:
    """Whether ``op`` has one result, and operands of known shape with a loop for each dimension."""
    if not is_linalg(op) or len(op.results) != 1 or min(loop_extents(op), default=0) < 1:
        return False
    return all(each.is_projected_permutation for each in indexing_maps(op))


def _through(op: ir.OpView, dims: Ranges, *, is_split: bool) -> Ranges:
    """``dims`` on the other side of a reshape, of more dimensions if ``is_split``.

    Empty if heads are one dimension there with something else.
    """
    collapsed, expanded = op.src.type, op.result.type
    if isinstance(op, tensor.CollapseShapeOp):
        collapsed, expanded = expanded, collapsed
    if not ir.RankedTensorType(expanded).has_static_shape:
        return {}
    sizes, found = ir.RankedTensorType(expanded).shape, Ranges()
    for number, group in enumerate(op.reassociation):
        parts = [ir.IntegerAttr(each).value for each in group]
        if is_split and number in dims:
            low = dims[number][0]
            for part in [each for each in reversed(parts) if sizes[each] > 1]:
                found[part] = (low, low * sizes[part])
                low *= sizes[part]
        elif not is_split and any(part in dims for part in parts):
            wide = [part for part in parts if sizes[part] > 1]
            ranges = [dims[part] for part in wide if part in dims]
            are_next = all(a[0] == b[1] for a, b in itertools.pairwise(ranges))
            if not ranges or len(ranges) < len(wide) or not are_next:
                return {}
            found[number] = (ranges[-1][0], ranges[0][1])
    return found
