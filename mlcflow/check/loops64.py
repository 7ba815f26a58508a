"""``linalg.generic`` in float64, whole arrays at a time, with error bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeGuard

import numpy as np

from mlcflow.check.bounds import Arithmetic, Number
from mlcflow.check.contraction64 import contract
from mlcflow.check.conversions import Unsupported, integer_type
from mlcflow.check.scalars import element
from mlcflow.check.views64 import LARGEST, steps, view
from mlcflow.check.windows64 import tiled_loops
from mlcflow.graph.linalg_ops import indexing_maps, iterators, owner
from mlcflow.mlir import ir

STEPS = 1 << 17
"""Iterations of a reduction that has no name: each takes a pass over the rest."""

Scalar = Callable[[ir.OpView, dict[ir.Value, Number]], list[Number]]
"""Evaluates one operation of a body, given the values around it."""


def generic(
    op: ir.OpView, environment: Mapping[ir.Value, Number], how: Arithmetic, evaluate: Scalar
) -> list[Number]:
    """The results of a ``linalg.generic`` on tensors. Raises ``Unsupported``."""
    maps, kinds = indexing_maps(op), iterators(op)
    operands = [environment[value] for value in op.operation.operands]
    extents = _extents(maps, operands)
    count = len(op.operation.results)
    places = [_places(each) for each in maps[-count:]]
    views = _views(op, maps, operands, extents)
    body = op.operation.regions[0].blocks[0]
    run = _Body(op, body, dict(environment), extents, how, evaluate)
    reduced = tuple(loop for loop, kind in enumerate(kinds) if kind == "reduction")
    if not reduced:
        found = run(views)
    elif count == 1 and _combiner(body) is not None:
        found = [_reduce(run, views, reduced)]
    else:
        found = _fold(run, views, reduced, count)
    return [
        _placed(number, place, extents, _dtype(result.type))
        for number, place, result in zip(found, places, op.results, strict=True)
    ]


def _views(
    op: ir.OpView, maps: Sequence[ir.AffineMap], operands: Sequence[Number], extents: list[int]
) -> list[Number]:
    """The operands along the loops; what is read twice is the same number, as ``x != x`` needs."""
    known: dict[tuple[ir.Value, ir.AffineMap], Number] = {}
    for key, number in zip(zip(op.operation.operands, maps, strict=True), operands, strict=True):
        if key not in known:
            known[key] = view(number, key[1], extents)
    return [known[key] for key in zip(op.operation.operands, maps, strict=True)]


def _extents(maps: Sequence[ir.AffineMap], operands: Sequence[Number]) -> list[int]:
    extents = [-1] * maps[0].n_dims
    for each, number in zip(maps, operands, strict=True):
        for axis, expression in enumerate(each.results):
            if isinstance(expression, ir.AffineDimExpr):
                extents[expression.position] = number.value.shape[axis]
    if -1 in extents:
        raise Unsupported("linalg.generic: the extent of a loop is not that of any operand")
    return extents


def _places(affine_map: ir.AffineMap) -> list[int | None]:
    """The loop of each dimension of a result; ``None`` where there is one element only."""
    places: list[int | None] = []
    for each in affine_map.results:
        if isinstance(each, ir.AffineDimExpr):
            places.append(each.position)
        elif isinstance(each, ir.AffineConstantExpr) and each.value == 0:
            places.append(None)
        else:
            raise Unsupported(f"linalg.generic: a result at {affine_map}")
    return places


def _dtype(kind: ir.Type) -> type:
    inner = element(kind)
    return np.float64 if isinstance(inner, ir.FloatType) else integer_type(inner)


def _placed(number: Number, place: list[int | None], extents: list[int], dtype: type) -> Number:
    """A number whose axes are the loops, as the result has them."""
    loops = [loop for loop in place if loop is not None]
    order = sorted(loops)

    def move(array: np.ndarray) -> np.ndarray:
        kept = array[tuple(slice(None) if loop in loops else 0 for loop in range(array.ndim))]
        whole = np.broadcast_to(kept, [extents[loop] for loop in order])
        moved = whole.transpose([order.index(loop) for loop in loops])
        sizes = iter(moved.shape)
        return moved.reshape([1 if loop is None else next(sizes) for loop in place])

    ranked = number.value.reshape((1,) * (len(extents) - number.value.ndim) + number.value.shape)
    error = number.error
    if error is not None:
        error = move(np.broadcast_to(error, np.broadcast_shapes(np.shape(error), ranked.shape)))
    return Number(move(ranked).astype(dtype, copy=False), error)


class _Body:
    """Evaluates the body of a generic for all iterations at once."""

    def __init__(
        self,
        op: ir.OpView,
        block: ir.Block,
        around: dict[ir.Value, Number],
        extents: list[int],
        how: Arithmetic,
        evaluate: Scalar,
    ) -> None:
        self.op, self.block, self.around = op, block, around
        self.extents, self.how, self.evaluate = extents, how, evaluate

    def values(
        self, views: Sequence[Number], position: Mapping[int, int], leave: set[ir.Value]
    ) -> dict[ir.Value, Number]:
        """All values of the body but those in ``leave``; ``position`` fixes some loops."""
        known = dict(self.around)
        for argument, number in zip(self.block.arguments, views, strict=True):
            known[argument] = _wide(number)
        for inner in self.block.operations:
            name = inner.operation.name
            if name == "linalg.yield" or any(result in leave for result in inner.results):
                continue
            if name == "linalg.index":
                loop = ir.IntegerAttr(inner.attributes["dim"]).value
                at = position.get(loop)
                found = steps(loop, self.extents) if at is None else np.asarray(at, np.int64)
                known[inner.results[0]] = Number(found)
                continue
            self._check(inner, known)
            known.update(zip(inner.results, self.evaluate(inner, known), strict=True))
        return known

    def _check(self, inner: ir.OpView, known: dict[ir.Value, Number]) -> None:
        scalars = [v for v in inner.operands if not isinstance(v.type, ir.ShapedType)]
        shapes = [known[value].value.shape for value in scalars]
        if math.prod(np.broadcast_shapes(*shapes)) > LARGEST:
            raise Unsupported("linalg.generic: too large to be evaluated in float64")

    def __call__(
        self, views: Sequence[Number], position: Mapping[int, int] | None = None
    ) -> list[Number]:
        known = self.values(views, position or {}, set())
        last = self.block.operations[len(self.block.operations) - 1]
        return [known[value] for value in last.operands]


def _wide(number: Number) -> Number:
    """Elements of a parameter become float64 only here, where they are used."""
    value = number.value
    if value.dtype.kind in "iub" or value.dtype == np.float64:
        return number
    return Number(value.astype(np.float64), number.error)


_COMBINERS = {
    "arith.addf": "sum",
    "arith.addi": "sum",
    "arith.maximumf": "max",
    "arith.minimumf": "min",
    "arith.maxsi": "max",
    "arith.minsi": "min",
    "arith.ori": "max",
    "arith.andi": "min",
}


def _combiner(block: ir.Block) -> ir.OpView | None:
    """The operation by which a reduction combines its terms, if it has a name."""
    last = block.operations[len(block.operations) - 1]
    final, accumulator = owner(last.operands[0]), block.arguments[len(block.arguments) - 1]
    if final is None or final.operation.name not in _COMBINERS:
        return None
    if len(list(accumulator.uses)) != 1 or accumulator not in list(final.operands):
        return None
    logical = final.operation.name in ("arith.ori", "arith.andi")
    return None if logical and str(final.results[0].type) != "i1" else final


def _reduce(run: _Body, views: list[Number], reduced: tuple[int, ...]) -> Number:
    """A sum, or the largest or smallest, over all iterations."""
    combiner = _combiner(run.block)
    assert combiner is not None
    accumulator = run.block.arguments[len(run.block.arguments) - 1]
    term = next(value for value in combiner.operands if value != accumulator)
    start, how, name = _wide(views[-1]), run.how, combiner.operation.name
    product = owner(term)
    if name == "arith.addf" and _is_product(product):
        known = run.values(views, {}, {product.results[0], combiner.results[0]})
        kind = str(product.results[0].type)
        a, b = (known[value] for value in product.operands)
        tiled = tiled_loops(indexing_maps(run.op), run.extents, reduced, kind)
        return contract(a, b, start, reduced, run.extents, kind, how, tiled)
    known = run.values(views, {}, {combiner.results[0]})
    number = known[term]
    shape = tuple(
        extent if loop in reduced else size
        for loop, (extent, size) in enumerate(
            zip(run.extents, _ranked(number.value, len(run.extents)).shape, strict=True)
        )
    )
    value = np.broadcast_to(_ranked(number.value, len(shape)), shape)
    if math.prod(shape) > LARGEST:
        raise Unsupported("linalg.generic: too large to be evaluated in float64")
    error = number.error
    if _COMBINERS[name] != "sum":
        return _extreme(_COMBINERS[name], Number(value, error), start, reduced)
    total = value.sum(reduced, keepdims=True, dtype=value.dtype) + start.value
    if name == "arith.addi" or not how.keeps:
        bad = None if error is None else np.broadcast_to(error, shape).max(reduced, keepdims=True)
        return Number(total, bad)
    terms = math.prod(shape[loop] for loop in reduced)
    sizes = np.abs(value).sum(reduced, keepdims=True) + np.abs(start.value)
    kind = str(combiner.results[0].type)
    fresh = how.growth(terms, kind) * sizes
    inherited = how.add(how.total(error, reduced, shape), start.error)
    return how.rounded(total, how.add(inherited, fresh), kind, 0)


def _is_product(op: ir.OpView | None) -> TypeGuard[ir.OpView]:
    return (
        op is not None and op.operation.name == "arith.mulf" and len(list(op.results[0].uses)) == 1
    )


def _extreme(name: str, number: Number, start: Number, axes: tuple[int, ...]) -> Number:
    both = np.maximum if name == "max" else np.minimum
    pick = np.max if name == "max" else np.min
    value = both(pick(number.value, axes, keepdims=True), start.value)
    if number.error is None and start.error is None:
        return Number(value)
    if value.dtype.kind != "f":
        return Number(value, number.errors.max(axes, keepdims=True))
    high = both(pick(number.value + number.errors, axes, keepdims=True), start.value + start.errors)
    low = both(pick(number.value - number.errors, axes, keepdims=True), start.value - start.errors)
    off = np.maximum(np.abs(high - value), np.abs(value - low))
    return Number(value, np.where(np.isnan(off), np.where(high == low, 0.0, np.inf), off))


def _ranked(array: np.ndarray, rank: int) -> np.ndarray:
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


def _fold(run: _Body, views: list[Number], reduced: tuple[int, ...], count: int) -> list[Number]:
    """Any other reduction: one iteration after the other."""
    sizes = [run.extents[loop] for loop in reduced]
    if math.prod(sizes) > STEPS:
        raise Unsupported(f"linalg.generic: a reduction over {math.prod(sizes)} steps")
    state = views[len(views) - count :]
    for step in np.ndindex(*sizes):
        position = dict(zip(reduced, step, strict=True))
        current = [_at(view, position) for view in views[: len(views) - count]]
        state = run([*current, *state], position)
    return state


def _at(view: Number, position: Mapping[int, int]) -> Number:
    def pick(array: np.ndarray) -> np.ndarray:
        index = tuple(
            slice(position[axis], position[axis] + 1)
            if axis in position and array.shape[axis] > 1
            else slice(None)
            for axis in range(array.ndim)
        )
        return array[index]

    return view.map(pick)
