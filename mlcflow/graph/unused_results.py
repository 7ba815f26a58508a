"""Results that nothing uses: the position of a maximum beside the maximum."""

from __future__ import annotations

from mlcflow.graph.linalg_ops import (
    captured,
    has_assertion,
    indexing_maps,
    inputs,
    is_generic,
    outputs,
    payload,
)
from mlcflow.mlir import ir, linalg, walk


def drop_unused_results(module: ir.Module) -> None:
    """Let a ``linalg.generic`` of several results compute those only that are used.

    torch-mlir imports the maximum of a softmax with its position, which no vector instruction
    keeps track of.
    """
    for op in reversed(walk(module.operation)):
        if is_generic(op) and len(op.results) > 1 and not (captured(op) or has_assertion(op)):
            _drop(op)


def _drop(op: ir.OpView) -> None:
    used = [number for number, result in enumerate(op.results) if list(result.uses)]
    block = op.operation.regions[0].blocks[0]
    end = block.operations[len(block.operations) - 1]
    count = len(inputs(op))
    kept = {block.arguments[count + number] for number in used}
    needed = _behind([end.operands[number] for number in used])
    others = set(list(block.arguments)[count:]) - kept
    if not used or len(used) == len(op.results) or needed & others:
        return
    maps = indexing_maps(op)
    with ir.InsertionPoint(op), op.location:
        starts = [outputs(op)[number] for number in used]
        new = linalg.GenericOp(
            [start.type for start in starts],
            inputs(op),
            starts,
            ir.ArrayAttr.get(
                [ir.AffineMapAttr.get(m) for m in maps[:count] + [maps[count + n] for n in used]]
            ),
            op.operation.attributes["iterator_types"],
        )
        arguments = [*list(block.arguments)[:count], *(block.arguments[count + n] for n in used)]
        body = new.regions[0].blocks.append(*(value.type for value in arguments))
        values = dict(zip(arguments, body.arguments, strict=True))
        with ir.InsertionPoint(body):
            for inner in payload(op):
                if set(inner.results) & needed:
                    copy = inner.operation.clone()
                    for number, operand in enumerate(copy.operands):
                        copy.operands[number] = values.get(operand, operand)
                    values.update(zip(inner.results, copy.results, strict=True))
            linalg.YieldOp([values[end.operands[number]] for number in used])
    for number, result in zip(used, new.results, strict=True):
        op.results[number].replace_all_uses_with(result)
    op.operation.erase()


def _behind(values: list[ir.Value]) -> set[ir.Value]:
    """The values, and all that they are computed from."""
    found: set[ir.Value] = set()
    pending = list(values)
    while pending:
        value = pending.pop()
        if value not in found:
            found.add(value)
            if not isinstance(value.owner, ir.Block):
                pending += value.owner.operands
    return found
