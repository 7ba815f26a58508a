"""Fusing elementwise operations."""

from __future__ import annotations

from mlcflow.graph.generic import generic
from mlcflow.graph.kernel import read_kernel
from mlcflow.graph.linalg_ops import (
    indexing_maps,
    inputs,
    is_elementwise,
    is_generic,
    is_identity,
    iterators,
    outputs,
    owner,
    payload,
)
from mlcflow.graph.outline import kernels
from mlcflow.mlir import func, ir, linalg, passmanager, walk

CHEAP_PAYLOAD = 2
"""So many additions or multiplications are done again rather than stored in between."""


def fuse_elementwise(module: ir.Module) -> None:
    """Fuse the elementwise operations of each kernel by ``linalg-fuse-elementwise-ops``.

    Across kernels it would compute an element of a producer once for each element of a
    contraction that reads it. Kernels that work by rows are fused already: upstream would
    compute what a row has once, such as a root, for each of its elements.
    """
    with module.context:
        manager = passmanager.PassManager.parse("func.func(linalg-fuse-elementwise-ops)")
        for function in kernels(module):
            kernel = read_kernel(function)
            if kernel is None or kernel.kind not in ("normalization", "attention"):
                manager.run(function.operation)


def fuse_in_rows(function: func.FuncOp) -> None:
    """Fuse what goes over the same loops: rows, or rows and their elements.

    A producer of several consumers is fused where it is cheap to compute again for each.
    """
    for op in walk(function):
        if not is_generic(op):
            continue
        consumer = op
        while (number := _fusible(consumer)) is not None:
            consumer = fuse_operand(consumer, number)
    for op in reversed(walk(function)):
        if is_generic(op) and not any(list(result.uses) for result in op.results):
            op.operation.erase()


def _fusible(op: ir.OpView) -> int | None:
    """The number of an operand whose producer can be fused into ``op``."""
    for number, (value, affine_map) in enumerate(zip(inputs(op), indexing_maps(op), strict=False)):
        producer = owner(value)
        if producer is not None and is_elementwise(producer) and is_identity(affine_map):
            users = {use.owner for use in producer.results[0].uses}
            is_again = _is_cheap(producer) and not _is_epilogue(producer)
            if len(producer.results) == 1 and (len(users) == 1 or is_again):
                return number
    return None


def _is_cheap(op: ir.OpView) -> bool:
    names = [inner.operation.name for inner in payload(op)]
    whole = [m for m in indexing_maps(op)[: len(inputs(op))] if len(m.results) == m.n_dims]
    return (
        len(names) <= CHEAP_PAYLOAD
        and len(whole) <= 1
        and not any(name.startswith("math.") or name == "arith.divf" for name in names)
    )


def _is_epilogue(op: ir.OpView) -> bool:
    """Whether ``op`` changes what a product gives, which it does before the only store."""
    made_by = [owner(value) for value in inputs(op)]
    return any(p is not None and linalg.isa_contraction_op(p.operation) for p in made_by)


def fuse_operand(consumer: ir.OpView, number: int) -> ir.OpView:
    """Compute operand ``number`` of ``consumer`` inside; gives the new operation."""
    value = inputs(consumer)[number]
    producer = value.owner.opview
    own = [(v, m) for v, m in _read(consumer) if v != value]
    read = list(dict.fromkeys([*own, *_read(producer)]))

    def body(*arguments: ir.Value) -> ir.Value:
        place = dict(zip(read, arguments, strict=False))
        inner = producer.operation.regions[0].blocks[0]
        values = {a: place[r] for a, r in zip(inner.arguments, _read(producer), strict=False)}
        made = _copy_payload(producer, values)
        outer = consumer.operation.regions[0].blocks[0]
        values = {
            a: made if r[0] == value else place[r]
            for a, r in zip(outer.arguments, _read(consumer), strict=False)
        }
        values[outer.arguments[len(outer.arguments) - 1]] = arguments[-1]
        return _copy_payload(consumer, values)

    with ir.InsertionPoint(consumer), consumer.location:
        maps = [*(m for _, m in read), indexing_maps(consumer)[-1]]
        result = generic(
            [v for v, _ in read],
            outputs(consumer)[0],
            [list(m.results) for m in maps],
            iterators(consumer),
            body,
        )
    consumer.results[0].replace_all_uses_with(result)
    consumer.operation.erase()
    return result.owner.opview


def _read(op: ir.OpView) -> list[tuple[ir.Value, ir.AffineMap]]:
    return list(zip(inputs(op), indexing_maps(op), strict=False))


def _copy_payload(op: ir.OpView, values: dict[ir.Value, ir.Value]) -> ir.Value:
    """Copy the scalar operations of ``op``; gives the copy of what it yields."""
    block = op.operation.regions[0].blocks[0]
    for inner in list(block.operations)[:-1]:
        copy = inner.operation.clone()
        for number, operand in enumerate(copy.operands):
            copy.operands[number] = values.get(operand, operand)
        values.update(zip(inner.results, copy.results, strict=True))
    last = block.operations[len(block.operations) - 1].operands[0]
    return values.get(last, last)
