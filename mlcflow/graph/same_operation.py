"""Whether two linalg operations compute the same, but for the order of loops and inputs."""

from __future__ import annotations

import itertools
from typing import Any

from mlcflow.graph.linalg_ops import indexing_maps, loop_kinds
from mlcflow.mlir import ir

COMMUTATIVE = frozenset(
    f"arith.{name}"
    for name in (
        *("addf", "mulf", "maximumf", "minimumf", "maxnumf", "minnumf"),
        *("addi", "muli", "andi", "ori", "xori", "maxsi", "maxui", "minsi", "minui"),
    )
)
_FREEDOM = frozenset({"fastmath", "overflowFlags"})
"""What an optimizer may assume, which is not what is computed."""


def same_operation(op: ir.OpView, model: ir.OpView) -> list[int] | None:
    """The operand of ``op`` that stands for each operand of ``model``, by number, or ``None``.

    Both write one result. Sizes do not matter; element types do.
    """
    inputs = len(model.operands) - 1
    kinds = [element_type(value) for value in op.operands]
    wanted = [element_type(value) for value in model.operands]
    if sorted(map(str, kinds)) != sorted(map(str, wanted)) or len(op.results) != 1:
        return None
    expected = _computation(model, list(range(inputs + 1)))
    for choice in itertools.permutations(range(inputs)):
        order = [*choice, inputs]
        if [kinds[number] for number in order] != wanted:
            continue
        place = [order.index(number) for number in range(inputs + 1)]
        found = _computation(op, place)
        if found is not None and found == expected and _same_loops(op, model, order):
            return order
    return None


def element_type(value: ir.Value) -> ir.Type:
    """The type of one element; of a scalar, its own."""
    is_shaped = isinstance(value.type, ir.ShapedType)
    return ir.ShapedType(value.type).element_type if is_shaped else value.type


def _same_loops(op: ir.OpView, model: ir.OpView, order: list[int]) -> bool:
    """Whether the loops of one can be renamed to those of the other."""
    maps, wanted = indexing_maps(op), indexing_maps(model)
    if maps[0].n_dims != wanted[0].n_dims:
        return False
    renamed: dict[int, int] = {}
    for number, target in zip(order, wanted, strict=True):
        if len(maps[number].results) != len(target.results):
            return False
        for mine, theirs in zip(maps[number].results, target.results, strict=True):
            if not isinstance(mine, ir.AffineDimExpr) or not isinstance(theirs, ir.AffineDimExpr):
                return False
            if renamed.setdefault(mine.position, theirs.position) != theirs.position:
                return False
    if len(set(renamed.values())) != maps[0].n_dims:
        return False
    kinds, other = loop_kinds(op), loop_kinds(model)
    return all(kinds[mine] == other[theirs] for mine, theirs in renamed.items())


def _computation(op: ir.OpView, place: list[int]) -> Any:
    """The value of an iteration as nested tuples; ``None`` if it is not of its operands alone."""
    [block] = op.operation.regions[0].blocks
    end = block.operations[len(block.operations) - 1]
    return _tree(end.operands[0], block, place)


def _tree(value: ir.Value, block: ir.Block, place: list[int]) -> Any:
    owner = value.owner
    if isinstance(owner, ir.Block):
        return ("operand", place[ir.BlockArgument(value).arg_number]) if owner == block else None
    if owner.operation.name == "arith.constant":
        return ("constant", str(owner.operation.attributes["value"]))
    if owner.operation.block != block or owner.operation.name == "linalg.index":
        return None
    parts = [_tree(operand, block, place) for operand in owner.operands]
    if None in parts:
        return None
    if owner.operation.name in COMMUTATIVE:
        parts.sort(key=repr)
    attributes = owner.operation.attributes
    details = sorted((name, str(attributes[name])) for name in attributes if name not in _FREEDOM)
    return (owner.operation.name, str(value.type), details, *parts)
