"""The part of a tensor that a statement touches, as a slice with offsets and strides."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlcflow.frontends.tensor_program.access import bounds
from mlcflow.frontends.tensor_program.tree import Affine, Size, Symbol
from mlcflow.mlir import arith, ir, tensor


@dataclass(frozen=True)
class Window:
    """A slice: ``offsets``, ``sizes`` and ``strides`` a dimension of the tensor.

    Dimensions that are ``dropped`` have one index and are none of the slice. ``index`` is the
    access in terms of the slice, one a dimension that is left.
    """

    offsets: tuple[int, ...]
    sizes: tuple[Size, ...]
    strides: tuple[int, ...]
    dropped: tuple[bool, ...]
    index: tuple[Affine, ...]
    is_whole: bool


def window(index: tuple[Affine, ...], extents: dict[str, Size], shape: tuple[Size, ...]) -> Window:
    """The slice of a tensor of ``shape`` that ``index`` runs over."""
    parts = [_part(a, extents, size) for a, size in zip(index, shape, strict=True)]
    offsets, sizes, strides, inner = zip(*parts, strict=True) if parts else ((), (), (), ())
    dropped = tuple(affine is None for affine in inner)
    whole = not any(dropped) and tuple(sizes) == shape and not any(offsets)
    kept = tuple(affine for affine in inner if affine is not None)
    return Window(offsets, sizes, strides, dropped, kept, whole)


def _part(
    index: Affine, extents: dict[str, Size], size: Size
) -> tuple[int, Size, int, Affine | None]:
    """Offset, size and stride of one dimension, and the index into it (``None``: dropped)."""
    if isinstance(size, Symbol):  # checked: one loop over all of it
        return 0, size, 1, index
    if not index.terms:
        return index.constant, 1, 1, None
    if len(index.terms) == 1 and index.terms[0][1] > 0:
        name, stride = index.terms[0]
        return index.constant, extents[name], stride, Affine(((name, 1),))
    low, high = bounds(index, extents)
    start = low if all(coefficient > 0 for _, coefficient in index.terms) else 0
    stop = size
    if any(extents[name] == 1 for name, _ in index.terms):
        # Upstream removes loops of one iteration; where one loop is left, its extent must be the
        # size, not just less.
        stop = high + 1
    return start, stop - start, 1, index + Affine((), -start)


def extract(value: ir.Value, part: Window, sizes: dict[str, ir.Value]) -> ir.Value:
    """The slice of ``value``, without the dropped dimensions."""
    element = ir.RankedTensorType(value.type).element_type
    kept = [s for s, drop in zip(part.sizes, part.dropped, strict=True) if not drop]
    static = [_static(size) for size in kept]
    return tensor.extract_slice(
        ir.RankedTensorType.get(static, element),
        value,
        [],
        _dynamic(part, sizes),
        [],
        list(part.offsets),
        [_static(size) for size in part.sizes],
        list(part.strides),
    )


def insert(tile: ir.Value, base: ir.Value, part: Window, sizes: dict[str, ir.Value]) -> ir.Value:
    """``base`` with the slice replaced by ``tile``."""
    return tensor.insert_slice(
        tile,
        base,
        [],
        _dynamic(part, sizes),
        [],
        list(part.offsets),
        [_static(size) for size in part.sizes],
        list(part.strides),
    )


def split(value: ir.Value, groups: list[int], shape: tuple[Size, ...]) -> ir.Value:
    """``value`` with each dimension split into as many as ``groups`` says; ``shape`` is then its
    shape."""
    if all(count == 1 for count in groups):
        return value
    sizes = [size for size in shape if isinstance(size, int)]  # checked: all are known
    kind = ir.RankedTensorType.get(sizes, ir.RankedTensorType(value.type).element_type)
    return tensor.expand_shape(kind, value, _reassociation(groups), [], sizes)


def merge(value: ir.Value, groups: list[int]) -> ir.Value:
    """``value`` with as many neighbouring dimensions made one as ``groups`` says."""
    if all(count == 1 for count in groups):
        return value
    kind = ir.RankedTensorType(value.type)
    rest = iter(kind.shape)
    sizes = [math.prod(next(rest) for _ in range(count)) for count in groups]
    merged = ir.RankedTensorType.get(sizes, kind.element_type)
    return tensor.collapse_shape(merged, value, _reassociation(groups))


def _reassociation(groups: list[int]) -> list[list[int]]:
    numbers = iter(range(sum(groups)))
    return [[next(numbers) for _ in range(count)] for count in groups]


def size_of(value: ir.Value, dimension: int) -> ir.Value:
    """The run-time size of one dimension."""
    index = ir.IndexType.get()
    position = arith.ConstantOp(index, ir.IntegerAttr.get(index, dimension)).result
    return tensor.dim(value, position)


def _static(size: Size) -> int:
    return ir.ShapedType.get_dynamic_size() if isinstance(size, Symbol) else size


def _dynamic(part: Window, sizes: dict[str, ir.Value]) -> list[ir.Value]:
    return [sizes[size.name] for size in part.sizes if isinstance(size, Symbol)]
