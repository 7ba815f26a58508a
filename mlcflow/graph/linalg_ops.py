"""Questions about linalg operations, as the graph stages ask them."""

from __future__ import annotations

import math

from mlcflow.mlir import cf, ir, linalg, tensor, walk


def is_linalg(op: ir.OpView | ir.Operation) -> bool:
    """A structured operation on tensors that gives at least one result."""
    return (
        op.operation.name.startswith("linalg.")
        and len(op.operation.regions) == 1
        and len(op.operation.results) > 0
    )


def is_generic(op: ir.OpView | ir.Operation) -> bool:
    """A ``linalg.generic`` on tensors."""
    return op.operation.name == "linalg.generic" and len(op.operation.results) > 0


def iterators(op: ir.OpView | ir.Operation) -> list[str]:
    """``parallel`` or ``reduction`` for each loop of a ``linalg.generic``."""
    names = ir.ArrayAttr(op.operation.attributes["iterator_types"])
    return ["reduction" if "reduction" in str(name) else "parallel" for name in names]


def loop_kinds(op: ir.OpView | ir.Operation) -> list[str]:
    """``parallel`` or ``reduction`` for each loop of any linalg operation on tensors.

    A named operation does not carry its iterators: a loop is parallel if the result moves
    with it.
    """
    if "iterator_types" in op.operation.attributes:
        return iterators(op)
    maps = indexing_maps(op)
    written = {e.position for e in maps[-1].results if isinstance(e, ir.AffineDimExpr)}
    return ["parallel" if loop in written else "reduction" for loop in range(maps[-1].n_dims)]


def indexing_maps(op: ir.OpView | ir.Operation) -> list[ir.AffineMap]:
    """The maps from loops to elements, an operand each: inputs, then outputs."""
    return [ir.AffineMapAttr(m).value for m in linalg.get_indexing_maps(op.operation)]


def outputs(op: ir.OpView | ir.Operation) -> list[ir.Value]:
    """The destination operands: as many as results, at the end of the operand list."""
    operands = list(op.operation.operands)
    return operands[len(operands) - len(op.operation.results) :]


def inputs(op: ir.OpView | ir.Operation) -> list[ir.Value]:
    """The operands that are read only."""
    operands = list(op.operation.operands)
    return operands[: len(operands) - len(op.operation.results)]


def is_contraction(op: ir.OpView) -> bool:
    """Whether ``op``, of any dialect, is a linalg operation that sums products."""
    return is_linalg(op) and linalg.isa_contraction_op(op.operation)


def is_elementwise(op: ir.OpView | ir.Operation) -> bool:
    """A generic whose loops are all parallel and whose results are written in loop order."""
    if not is_generic(op) or "reduction" in iterators(op):
        return False
    count = len(op.operation.results)
    return all(is_identity(m) for m in indexing_maps(op)[-count:])


def is_identity(affine_map: ir.AffineMap) -> bool:
    """Whether the map names every loop, in order."""
    return affine_map == ir.AffineMap.get_identity(affine_map.n_dims, context=affine_map.context)


def is_fill(op: ir.OpView | ir.Operation | None) -> bool:
    """Whether ``op`` is ``linalg.fill``."""
    return op is not None and op.operation.name == "linalg.fill"


def is_windowed(op: ir.OpView | ir.Operation) -> bool:
    """Whether a window moves over an input, multiplied by weights: ``image[y + r]``."""
    expressions = [e for affine_map in indexing_maps(op) for e in affine_map.results]
    moves = any(isinstance(e, ir.AffineAddExpr) for e in expressions)
    return moves and any(inner.operation.name.startswith("arith.mul") for inner in payload(op))


def payload(op: ir.OpView | ir.Operation) -> list[ir.OpView]:
    """The scalar operations of one iteration, without the yield."""
    return [inner for inner in walk(op) if inner.operation.name != "linalg.yield"]


def is_copy(op: ir.OpView | ir.Operation) -> bool:
    """Whether an elementwise operation computes nothing: a copy, transpose or broadcast."""
    return op.operation.name == "linalg.copy" or (is_elementwise(op) and not payload(op))


def has_assertion(op: ir.OpView | ir.Operation) -> bool:
    """Whether an iteration may fail an assertion."""
    return any(isinstance(inner, cf.AssertOp) for inner in payload(op))


def elements(kind: ir.Type) -> int:
    """Elements of a tensor type; 0 when a size is open."""
    shaped = ir.ShapedType(kind)
    return math.prod(shaped.shape) if shaped.has_static_shape else 0


def owner(value: ir.Value) -> ir.OpView | None:
    """The operation that defines ``value``; ``None`` for a block argument."""
    return None if isinstance(value.owner, ir.Block) else value.owner


def captured(op: ir.OpView | ir.Operation) -> list[ir.Value]:
    """Values from outside that the regions of ``op`` use, each once."""
    inside = walk(op)
    defined = {result for inner in inside for result in inner.operation.results}
    for inner in [op, *inside]:
        for region in inner.operation.regions:
            for block in region.blocks:
                defined.update(block.arguments)
    used = (value for inner in inside for value in inner.operation.operands)
    return list(dict.fromkeys(value for value in used if value not in defined))


def is_empty(op: ir.OpView | None) -> bool:
    """Whether ``op`` is ``tensor.empty``."""
    return isinstance(op, tensor.EmptyOp)


COMBINERS = frozenset(
    f"arith.{name}"
    for name in (
        "addf", "addi", "mulf", "muli", "andi", "ori", "xori", "maximumf", "minimumf",
        "maxnumf", "minnumf", "maxsi", "maxui", "minsi", "minui",
    )
)  # fmt: skip
"""Operations by which the vectorizer can reduce."""


def combines_inputs(op: ir.OpView) -> bool:
    """Whether a reduction combines its result so far with something made of its inputs.

    The vectorizer takes any other operation for an error, and a constant for a value that is
    there once instead of in each iteration.
    """
    body = op.operation.regions[0].blocks[0]
    accumulator = list(body.arguments)[-1]
    result = body.operations[len(body.operations) - 1].operands[0]
    combiner = owner(result)
    if combiner is None or combiner.operation.name not in COMBINERS:
        return False
    others = [value for value in combiner.operands if value != accumulator]
    return len(others) == 1 and _depends_on_input(others[0], accumulator)


def _depends_on_input(value: ir.Value, accumulator: ir.Value) -> bool:
    producer = owner(value)
    if producer is None:
        return value != accumulator
    return any(_depends_on_input(operand, accumulator) for operand in producer.operands)
