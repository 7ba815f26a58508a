"""The form that kernels of attention are brought into before they are scheduled."""

from __future__ import annotations

import math
from collections.abc import Callable

from mlcflow.graph.attention_products import moves
from mlcflow.graph.causal import note_causal
from mlcflow.graph.fuse import fuse_in_rows
from mlcflow.graph.generic import dims, generic
from mlcflow.graph.linalg_ops import (
    indexing_maps,
    inputs,
    is_contraction,
    is_elementwise,
    is_fill,
    is_generic,
    iterators,
    loop_kinds,
    outputs,
    owner,
    payload,
)
from mlcflow.graph.narrow_factors import narrow_inputs, read_factors
from mlcflow.graph.powers import is_maximum
from mlcflow.mlir import arith, func, ir, linalg, tensor, walk
from mlcflow.mlir import math as math_dialect
from mlcflow.vector_math.bounds import ANY_IF_NAN, AT_MOST_ZERO


def arrange(function: func.FuncOp) -> None:
    """Scores, largest of a row, powers, sums, product with V, division by the sums.

    Powers of 2 instead of e: ``exp(s - max) = 2**(s log2(e) - max log2(e))``, in which the factor
    of the scores goes along. Rounds differently by 1e-7 of the exponent, for which rows are few
    times as far from their maximum as powers are from 0.
    """
    for op in walk(function):
        if is_contraction(op) and (factors := narrow_inputs(op)):
            read_factors(op, factors)
    fuse_in_rows(function)
    note_causal(function)
    _read_in_place(function)
    for op in walk(function):
        if is_elementwise(op) and [n.operation.name for n in payload(op)] == [
            "arith.subf", "math.exp",
        ]:  # fmt: skip
            _use_powers_of_two(op)
    _divide_last([op for op in walk(function) if is_contraction(op)][-1])
    _drop_unused(function)


def _read_in_place(function: func.FuncOp) -> None:
    """Let the products read the sources of transposes."""
    for op in walk(function):
        if not is_contraction(op):
            continue
        maps, read = indexing_maps(op), list(inputs(op))
        for number, value in enumerate(inputs(op)):
            while (copy := owner(value)) is not None and moves(copy):
                # The dimension of the source that each loop of the copy goes over.
                order = [e.position for e in indexing_maps(copy)[0].results]
                results = [maps[number].results[position] for position in order]
                maps[number] = ir.AffineMap.get(maps[number].n_dims, 0, results)
                read[number] = value = inputs(copy)[0]
        _rebuild(op, read, maps)


def _rebuild(op: ir.OpView, read: list[ir.Value], maps: list[ir.AffineMap]) -> None:
    with ir.InsertionPoint(op), op.location:
        result = generic(
            read,
            outputs(op)[0],
            [list(m.results) for m in maps],
            loop_kinds(op),
            op.regions[0].blocks[0],
        )
    op.results[0].replace_all_uses_with(result)
    op.operation.erase()


def _use_powers_of_two(op: ir.OpView) -> None:
    """Make ``exp(x - largest)``, where x may be scores times a number, a power of 2."""
    (scores, largest), factor = inputs(op), math.log2(math.e)
    maps = indexing_maps(op)
    kind = ir.ShapedType(scores.type).element_type
    for maximum in _maxima(largest):
        # NaN in a row is in its sum too, which divides all that is made of the row.
        payload(maximum)[0].attributes[ANY_IF_NAN] = ir.UnitAttr.get()
    scale = owner(scores)
    reduction = _reads_alone(scale, op)
    if scale is not None and reduction is not None and (number := _positive_factor(scale)):
        # The largest first: its product is as large as that of all others.
        raw = inputs(scale)[0]
        reduction.operation.operands[0] = raw
        scaled = _by_rows(reduction.results[0], lambda x: _times(x, number))
        _replace_others(reduction.results[0], scaled)
        scores, factor = raw, factor * number
        largest = scaled if largest == reduction.results[0] else largest
    with ir.InsertionPoint(op), op.location:
        exponent = _by_rows(largest, lambda x: _times(x, math.log2(math.e)))

        def body(x: ir.Value, m: ir.Value, _: ir.Value) -> ir.Value:
            difference = arith.subf(arith.mulf(x, arith.constant(kind, factor)), m)
            power = math_dialect.exp2(difference)
            power.owner.attributes[AT_MOST_ZERO] = ir.UnitAttr.get()
            return power

        lists = [list(each.results) for each in maps]
        result = generic([scores, exponent], outputs(op)[0], lists, iterators(op), body)
    op.results[0].replace_all_uses_with(result)
    op.operation.erase()


def _maxima(value: ir.Value) -> list[ir.OpView]:
    """The reductions to the largest score that ``value``, a number for each row, is made of."""
    op = owner(value)
    if op is None or is_maximum(op):
        return [] if op is None else [op]
    return [each for v in inputs(op) for each in _maxima(v)] if is_elementwise(op) else []


def _replace_others(value: ir.Value, new: ir.Value) -> None:
    """Let all that reads ``value`` but the operation that makes ``new`` read that."""
    for use in list(value.uses):
        if use.owner.operation != new.owner.operation:
            use.owner.operands[use.operand_number] = new


def _times(x: ir.Value, number: float) -> ir.Value:
    return arith.mulf(x, arith.constant(x.type, number))


def _by_rows(value: ir.Value, function: Callable[[ir.Value], ir.Value]) -> ir.Value:
    """``function`` of each element of ``value``, computed right behind it."""
    kind = ir.RankedTensorType(value.type)
    operations = list(value.owner.operation.block.operations)
    following = operations[operations.index(value.owner.opview) + 1]
    with ir.InsertionPoint(following), value.owner.location:
        space = tensor.empty(list(kind.shape), kind.element_type)
        both = [dims(kind.rank)] * 2
        return generic([value], space, both, ["parallel"] * kind.rank, lambda x, _: function(x))


def _reads_alone(scale: ir.OpView | None, op: ir.OpView) -> ir.OpView | None:
    """The only other reader of what ``op`` reads, if it is the reduction of its rows."""
    if scale is None:
        return None
    users = {use.owner.operation for use in scale.results[0].uses} - {op.operation}
    only = next(iter(users)).opview if len(users) == 1 else None
    return only if only is not None and is_maximum(only) else None


def _positive_factor(op: ir.OpView) -> float:
    """The constant above 0 that ``op`` multiplies scores by; 0 if it does something else."""
    body = payload(op) if is_elementwise(op) and len(inputs(op)) == 1 else []
    product = owner(inputs(op)[0]) if body else None
    if product is None or not is_contraction(product) or len(body) != 1:
        return 0.0
    constant = owner(body[0].operands[1]) if body[0].operation.name == "arith.mulf" else None
    if constant is None or constant.operation.name != "arith.constant":
        return 0.0
    number = ir.FloatAttr(constant.attributes["value"]).value
    return number if 0 < number < math.inf else 0.0


def _divide_last(values: ir.OpView) -> None:
    """``(E r) V = (E V) r``: a row of the result is shorter than one of weights.

    The transpose of the result and its rounding, if there are any, do the same work.
    """
    weights = owner(inputs(values)[0])
    powers, sums = inputs(weights)
    values.operation.operands[0] = _rounded(powers, weights)
    product = values.results[0]
    kind = ir.RankedTensorType(product.type)
    loops, read, last = dims(kind.rank), dims(kind.rank), values
    while steps := [u.owner.opview for u in last.results[0].uses if is_elementwise(u.owner)]:
        # Loops go over the result in its order.
        order = list(indexing_maps(steps[0])[0].results)
        last, read = steps[0], [order[each.position] for each in read]
    result = ir.RankedTensorType(last.results[0].type)
    block = values.operation.block
    end = block.operations[len(block.operations) - 1]
    body = payload(weights)[0].operation.name
    divide = arith.mulf if body == "arith.mulf" else arith.divf

    def function(x: ir.Value, y: ir.Value, _: ir.Value) -> ir.Value:
        made = divide(y, x)
        return made if result.element_type == made.type else arith.truncf(result.element_type, made)

    with ir.InsertionPoint(end), last.location:
        place = outputs(last)[0] if last != values else _start(values)
        if last == values:
            _accumulate_apart(values)
        # The sums come first, so that tiling computes them before the product.
        maps = [read[:-1], read, loops]
        made = generic([sums, product], place, maps, ["parallel"] * result.rank, function)
    for number, operand in enumerate(end.operands):
        if operand == last.results[0]:
            end.operation.operands[number] = made


def _rounded(powers: ir.Value, weights: ir.OpView) -> ir.Value:
    """``powers``, of the type to which ``weights`` have been rounded."""
    element = ir.RankedTensorType(weights.results[0].type).element_type
    if ir.RankedTensorType(powers.type).element_type == element:
        return powers
    rank = len(loop_kinds(weights))
    with ir.InsertionPoint(weights), weights.location:
        return generic(
            [powers],
            outputs(weights)[0],
            [dims(rank)] * 2,
            ["parallel"] * rank,
            lambda x, _: arith.truncf(element, x),
        )


def _start(values: ir.OpView) -> ir.Value:
    """The tensor that the fill of a product writes into."""
    return outputs(outputs(values)[0].owner)[0]


def _accumulate_apart(values: ir.OpView) -> None:
    """Let a product accumulate in memory of its own."""
    fill = outputs(values)[0].owner
    kind = ir.RankedTensorType(values.results[0].type)
    with ir.InsertionPoint(fill), fill.location:
        space = tensor.empty(list(kind.shape), kind.element_type)
        own = linalg.fill(inputs(fill)[0], outs=[space])
    values.operation.operands[2] = own


def _drop_unused(function: func.FuncOp) -> None:
    for op in reversed(walk(function)):
        is_linalg = is_generic(op) or is_fill(op)
        if is_linalg and not any(list(result.uses) for result in op.results):
            op.operation.erase()
