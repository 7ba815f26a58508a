"""Where the loops read and write: bounds, and what of a tensor an access covers."""

from __future__ import annotations

import ast

import numpy as np

from mlcflow.frontends.tensor_program.scope import Scope
from mlcflow.frontends.tensor_program.tree import Affine, Size, Symbol

Region = tuple["np.ndarray | None", ...]
"""A set of elements, a dimension each: the indices as a mask (bool[size]); ``None`` for all of a
dimension whose size is known at run time only."""


def bounds(index: Affine, extents: dict[str, Size]) -> tuple[int, int]:
    """The smallest and the largest value of an index whose loops have known extents."""
    spans = [c * (int(extents[name]) - 1) for name, c in index.terms]  # type: ignore[arg-type]
    return index.constant + sum(min(0, s) for s in spans), index.constant + sum(
        max(0, s) for s in spans
    )


def check_bounds(
    scope: Scope, places: list[ast.expr], tensor: str, index: tuple[Affine, ...]
) -> bool:
    """Report every index of ``tensor`` that leaves its dimension; ``places`` are their nodes."""
    extents = {loop.name: loop.extent for loop in scope.loops}
    before = len(scope.problems)
    for number, (place, affine, size) in enumerate(
        zip(places, index, scope.type_of(tensor).shape, strict=True)
    ):
        message = _leaves(affine, size, extents)
        if message:
            scope.report(
                place,
                f"index '{ast.unparse(place)}' of '{tensor}' is out of bounds: {message} "
                f"in dimension {number}",
            )
    return len(scope.problems) == before


def _leaves(index: Affine, size: Size, extents: dict[str, Size]) -> str:
    """How the index leaves a dimension of that size, or nothing."""
    open_loops = [name for name, _ in index.terms if isinstance(extents[name], Symbol)]
    if isinstance(size, Symbol):
        if index.variable is not None and extents[index.variable] == size:
            return ""
        return f"expected a loop of extent {size}, found {_span(index, extents)}"
    if open_loops:
        return f"expected 0 to {size - 1}, found {_span(index, extents)}"
    low, high = bounds(index, extents)
    if low >= 0 and high < size:
        return ""
    found = f"{low}" if low == high else f"{low} to {high}"
    return f"expected 0 to {size - 1}, found {found}"


def _span(index: Affine, extents: dict[str, Size]) -> str:
    ranges = [f"{name} from 0 to {extents[name]} - 1" for name, _ in index.terms]
    return f"{index}" + (f" with {', '.join(ranges)}" if ranges else "")


def region(index: tuple[Affine, ...], extents: dict[str, Size], shape: tuple[Size, ...]) -> Region:
    """The elements at ``index`` over all iterations; dimension by dimension, so that it may be
    larger than what is read when one loop runs through two dimensions."""
    return tuple(
        None if isinstance(size, Symbol) else _mask(affine, extents, size)
        for affine, size in zip(index, shape, strict=True)
    )


def _mask(index: Affine, extents: dict[str, Size], size: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    run = 1  # as long as a loop steps no further than what is reached already, no gaps come up
    for name, coefficient in reversed(index.descending):
        if not 0 < coefficient <= run:
            break
        run += coefficient * (int(extents[name]) - 1)  # type: ignore[arg-type]
    else:
        mask[index.constant : index.constant + run] = True
        return mask
    reached = np.array([index.constant])
    for name, coefficient in index.terms:
        steps = coefficient * np.arange(int(extents[name]))  # type: ignore[arg-type]
        reached = np.unique(reached[:, None] + steps[None, :])
    mask[reached] = True
    return mask


def everything(shape: tuple[Size, ...]) -> Region:
    """Every element of a tensor."""
    return tuple(None if isinstance(s, Symbol) else np.ones(s, bool) for s in shape)


def covered(wanted: Region, written: list[Region]) -> bool:
    """Whether every element of ``wanted`` is in one of ``written``.

    Indices of a dimension that lie in the same of these sets are told apart by none of them, so
    one of each class is looked at.
    """
    if any(_contains(region, wanted) for region in written):
        return True
    classes = []
    for dimension, mask in enumerate(wanted):
        rows = [np.ones(1, bool) if mask is None else mask] + [
            np.ones(1, bool) if (m := region[dimension]) is None else m for region in written
        ]
        classes.append(np.unique(np.stack(rows)[:, rows[0]], axis=1))
    found = np.zeros([columns.shape[1] for columns in classes], bool)
    for number in range(1, len(written) + 1):
        inside = np.ones([], bool)
        for columns in classes:
            inside = np.logical_and.outer(inside, columns[number])
        found |= inside
    return bool(found.all())


def _contains(outer: Region, inner: Region) -> bool:
    return all(
        a is None or b is None or not np.any(b & ~a) for a, b in zip(outer, inner, strict=True)
    )
