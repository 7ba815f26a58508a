"""Cutting the graph into kernels.

A kernel is a contraction, convolution or reduction with the elementwise operations that fuse
into it, or else a group of elementwise operations. Operations are grouped along edges whose
producer has no other consumer, so a group is a tree with one final operation: it can be called
where that operation stood, whatever lies between.
"""

from __future__ import annotations

from mlcflow.graph.linalg_ops import (
    captured,
    elements,
    has_assertion,
    indexing_maps,
    inputs,
    is_elementwise,
    is_fill,
    is_generic,
    is_identity,
    is_linalg,
    is_windowed,
    outputs,
    owner,
    payload,
)
from mlcflow.graph.naming import kernel_name
from mlcflow.graph.outline import graphs, outline
from mlcflow.mlir import ir, linalg

CHEAP_PAYLOAD = 2
"""An elementwise operation of one input and at most so many scalar operations is computed again
for each consumer rather than stored."""


def partition(module: ir.Module) -> None:
    """Move every linalg operation of the entry points into a private function, a kernel.

    Kernels are in destination-passing form on tensors: the last arguments are the
    destinations, the results are what was written into them. Each is called once;
    ``duplicate-function-elimination`` then merges equal ones.
    """
    symbols = ir.SymbolTable(module.operation)
    for function in graphs(module):
        _partition_region(function.regions[0], symbols)


def _partition_region(region: ir.Region, symbols: ir.SymbolTable) -> None:
    for block in region.blocks:
        for op in list(block.operations):
            if not op.operation.name.startswith(("linalg.", "tm_tensor.")):
                for inner in op.operation.regions:
                    _partition_region(inner, symbols)
        _duplicate_cheap(block)
        for group in _groups(block):
            outline(group, kernel_name(group), symbols)


def _duplicate_cheap(block: ir.Block) -> None:
    """Give each consumer of a cheap elementwise operation a copy of its own."""
    for op in reversed(list(block.operations)):
        if not (is_elementwise(op) and _is_cheap(op)):
            continue
        uses = list(op.results[0].uses)
        if len(uses) > 1 and all(is_generic(use.owner) for use in uses):
            for use in uses[1:]:
                copy = op.operation.clone(ip=ir.InsertionPoint(use.owner))
                use.owner.operands[use.operand_number] = copy.results[0]


def _is_cheap(op: ir.OpView) -> bool:
    body = payload(op)
    return (
        len(op.operation.results) == 1
        and len(inputs(op)) <= 1
        and len(body) <= CHEAP_PAYLOAD
        and not has_assertion(op)
        and not captured(op)
        and not any(inner.operation.name.startswith("math.") for inner in body)
    )


def _groups(block: ir.Block) -> list[list[ir.OpView]]:
    """The groups of operations of ``block``, each in program order."""
    group_of: dict[ir.OpView, list[ir.OpView]] = {}
    for op in block.operations:
        if not is_linalg(op) or is_fill(op):
            continue
        merged = [op]
        for producer in _single_producers(op, group_of):
            if _fuses(group_of[producer], producer, merged):
                merged = group_of[producer] + merged
        for member in merged:
            group_of[member] = merged
    order = {op: number for number, op in enumerate(block.operations)}
    distinct = {id(group): group for group in group_of.values()}.values()
    return [sorted(group, key=order.__getitem__) for group in distinct]


def _single_producers(op: ir.OpView, group_of: dict) -> list[ir.OpView]:
    """Producers of the inputs of ``op`` in this block whose results go to ``op`` alone."""
    found = []
    for value in dict.fromkeys(op.operation.operands):
        producer = owner(value)
        if producer is not None and producer in group_of and value not in outputs(op):
            users = {use.owner for result in producer.results for use in result.uses}
            if users == {op}:
                found.append(producer)
    return found


def _fuses(group: list[ir.OpView], producer: ir.OpView, merged: list[ir.OpView]) -> bool:
    """Whether the group that ends in ``producer`` may join the one of its consumer."""
    consumer = merged[-1]
    if not is_generic(consumer) or linalg.isa_contraction_op(consumer.operation):
        return False
    if is_windowed(consumer):  # reads each element many times
        return False
    if all(is_elementwise(op) for op in group):
        return _same_domain(producer, consumer)
    # A group with a reduction at its root: its consumer works on each element of the result,
    # in the same order, and there can be one root only.
    return (
        is_elementwise(consumer)
        and all(is_elementwise(op) for op in merged)
        and _read_in_order(producer, consumer)
    )


def _same_domain(producer: ir.OpView, consumer: ir.OpView) -> bool:
    """Whether fusing computes no element of the producer more than once."""
    for result in producer.results:
        for number, value in enumerate(consumer.operation.operands):
            if value == result:
                affine_map = indexing_maps(consumer)[number]
                if not affine_map.is_projected_permutation:
                    return False
                if affine_map.n_dims != len(affine_map.results) and not _is_cheap(producer):
                    return False
    return elements(producer.results[0].type) > 0


def _read_in_order(producer: ir.OpView, consumer: ir.OpView) -> bool:
    return all(
        is_identity(indexing_maps(consumer)[number])
        for number, value in enumerate(consumer.operation.operands)
        if value in list(producer.results)
    )
