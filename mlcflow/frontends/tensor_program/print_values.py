"""What a tensor value is while a module is printed as Python: a buffer seen through an index,
one number everywhere, or nothing yet."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlcflow.mlir import ir

Index = list[ast.expr]
PySize = int | str
"""A size, or the name that stands for it in the printed function."""


@dataclass(frozen=True)
class Empty:
    """A tensor whose elements mean nothing."""

    shape: tuple[PySize, ...]


@dataclass(frozen=True)
class Splat:
    """A tensor that holds one number."""

    shape: tuple[PySize, ...]
    value: ast.expr


@dataclass(frozen=True)
class View:
    """A tensor whose element at ``index`` is that of buffer ``name`` at ``place(index)``.

    ``owned``: the whole of a buffer that the function made, which may be written again.
    """

    shape: tuple[PySize, ...]
    name: str
    place: Callable[[Index], Index]
    owned: bool = False

    def element(self, index: Index) -> ast.Subscript:
        """``name[...]``."""
        place = self.place(index)
        inner = place[0] if len(place) == 1 else ast.Tuple(place)
        return ast.Subscript(ast.Name(self.name), inner)


def plain(index: Index) -> Index:
    """The index of a whole buffer."""
    return index


def sliced(
    view: View,
    shape: tuple[PySize, ...],
    offsets: Sequence[int],
    strides: Sequence[int],
    dropped: Sequence[bool],
) -> View:
    """The slice of a view; ``dropped`` dimensions are not part of its index."""

    def place(index: Index) -> Index:
        rest = iter(index)
        inner = []
        for offset, stride, drop in zip(offsets, strides, dropped, strict=True):
            inner.append(ast.Constant(offset) if drop else shifted(next(rest), stride, offset))
        return view.place(inner)

    return View(shape, view.name, place)


def split(view: View, shape: tuple[PySize, ...], groups: Sequence[Sequence[int]]) -> View | None:
    """A view with dimensions split: ``groups`` are the new ones for each old one, of known size
    but for the first of a group; ``None`` where they are not."""
    if any(isinstance(shape[d], str) for group in groups for d in list(group)[1:]):
        return None

    def place(index: Index) -> Index:
        inner: Index = []
        for group in groups:
            total: ast.expr = ast.Constant(0)
            for dimension in group:
                if shape[dimension] != 1:
                    total = added(shifted(total, int(shape[dimension]), 0), index[dimension])
            inner.append(total)
        return view.place(inner)

    return View(shape, view.name, place)


def squeezed(view: View, shape: tuple[PySize, ...], groups: Sequence[Sequence[int]]) -> View | None:
    """A view without dimensions of size 1: ``groups`` are the old ones for each new one;
    ``None`` when others are merged too."""
    old = view.shape
    kept = []
    for group in groups:
        long = [d for d in group if old[d] != 1]
        if len(long) > 1:
            return None
        kept.append(long[0] if long else group[0])

    def place(index: Index) -> Index:
        inner: Index = [ast.Constant(0) for _ in old]
        for dimension, part in zip(kept, index, strict=True):
            inner[dimension] = part
        return view.place(inner)

    return View(shape, view.name, place)


def added(left: ast.expr, right: ast.expr) -> ast.expr:
    """``left + right``, without zeros."""
    if isinstance(left, ast.Constant) and left.value == 0:
        return right
    if isinstance(right, ast.Constant) and isinstance(right.value, int):
        if right.value == 0:
            return left
        if right.value < 0:
            return ast.BinOp(left, ast.Sub(), ast.Constant(-right.value))
    return ast.BinOp(left, ast.Add(), right)


def shifted(index: ast.expr, stride: int, offset: int) -> ast.expr:
    """``index * stride + offset``, without what changes nothing."""
    if isinstance(index, ast.Constant) and isinstance(index.value, int):
        return ast.Constant(index.value * stride + offset)
    scaled = index if stride == 1 else ast.BinOp(index, ast.Mult(), ast.Constant(stride))
    return added(scaled, ast.Constant(offset))


def affine(expression: ir.AffineExpr, loops: list[str]) -> ast.expr | None:
    """An affine expression of loops; ``None`` for floordiv, ceildiv and mod."""
    if isinstance(expression, ir.AffineDimExpr):
        return ast.Name(loops[expression.position])
    if isinstance(expression, ir.AffineConstantExpr):
        return ast.Constant(expression.value)
    if not isinstance(expression, ir.AffineAddExpr | ir.AffineMulExpr):
        return None
    left, right = affine(expression.lhs, loops), affine(expression.rhs, loops)
    if left is None or right is None:
        return None
    if isinstance(expression, ir.AffineAddExpr):
        return added(left, right)
    return ast.BinOp(left, ast.Mult(), right)
