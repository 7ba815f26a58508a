"""Operations rewritten in PyTorch before the import: torch-mlir refuses them, crashes on them,
or computes something else.

Each decomposition returns ``NotImplemented`` for the calls that torch-mlir handles well, which
then stay as they are; so what a decomposition calls must not come back to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

aten = torch.ops.aten


def divide(x: Tensor, y: Any, *, rounding_mode: str | None = None) -> Any:
    """Integers rounded to the lower one: torch-mlir goes through f64."""
    if not isinstance(y, Tensor):
        if not isinstance(y, int) or _is_inexact(x.dtype) or x.dtype == torch.bool:
            return NotImplemented
        if not torch.iinfo(x.dtype).min <= y <= torch.iinfo(x.dtype).max:
            return NotImplemented
        y = aten.full([], y, dtype=x.dtype)
    dtype = torch.result_type(x, y)
    if rounding_mode != "floor" or _is_inexact(dtype) or dtype == torch.bool:
        return NotImplemented
    x, y = x.to(dtype), y.to(dtype)
    quotient = aten.div(x, y, rounding_mode="trunc")
    if not dtype.is_signed:
        return quotient
    rest = x - quotient * y
    return torch.where((rest != 0) & ((rest < 0) != (y < 0)), quotient - 1, quotient)


def floor_divide(x: Tensor, y: Any) -> Any:
    """As :func:`divide`."""
    return divide(x, y, rounding_mode="floor")


def of_bytes(reduction: Any) -> Callable[..., Any]:
    """``any`` and ``all`` of what is not boolean."""

    def decomposition(x: Tensor, *args: Any, **options: Any) -> Any:
        if x.dtype == torch.bool:
            return NotImplemented
        result = reduction(x != 0, *args, **options)
        return result.to(torch.uint8) if x.dtype == torch.uint8 else result

    return decomposition


def reduce(reduction: Any) -> Callable[..., Any]:
    """torch-mlir crashes on sums of complex numbers, and on sums of a type of one byte."""

    def decomposition(x: Tensor, *args: Any, dtype: Any = None, **options: Any) -> Any:
        if x.dtype.is_complex and dtype is None and reduction is aten.sum:
            parts = (reduction(part, *args, **options) for part in (x.real, x.imag))
            return torch.complex(*parts)
        if dtype not in (torch.int8, torch.uint8):
            return NotImplemented
        return reduction(x, *args, dtype=torch.int64, **options).to(dtype)

    return decomposition


def pow_integer(x: Tensor, exponent: Any) -> Any:
    """Powers of integers that are small enough to write out."""
    if _is_inexact(x.dtype) or x.dtype == torch.bool:
        return NotImplemented
    if not isinstance(exponent, int) or not 1 <= exponent <= 8:
        return NotImplemented
    result = x
    for _ in range(exponent - 1):
        result = result * x
    return result


def constant_pad_nd(x: Tensor, pad: Sequence[int], value: float = 0) -> Any:
    """Negative padding cuts: torch-mlir inserts at a negative offset."""
    if not any(isinstance(p, int) and p < 0 for p in pad):
        return NotImplemented
    for number in range(len(pad) // 2):
        dimension = x.dim() - 1 - number
        before, after = (max(-p, 0) for p in pad[2 * number : 2 * number + 2])
        x = aten.slice(x, dimension, before, x.shape[dimension] - after)
    return aten.constant_pad_nd(x, [max(p, 0) for p in pad], value)


def threshold_backward(gradient: Tensor, x: Tensor, threshold: Any) -> Any:
    """PyTorch's own decomposition forgets to promote the types."""
    dtype = torch.result_type(gradient, x)
    return torch.where(x <= threshold, torch.zeros_like(gradient, dtype=dtype), gradient.to(dtype))


def view(x: Tensor, size: Sequence[int]) -> Any:
    """Decompositions of attention order memory otherwise than its kernels do, on which a view
    of the result rests; here memory has no order, so the view is of a copy.
    """
    if x.is_contiguous() or not all(isinstance(n, int) for n in (*x.shape, *size)):
        return NotImplemented
    with _disable_current_modes():
        try:
            torch.empty_strided(x.shape, x.stride(), device="meta").view(size)
            return NotImplemented
        except (RuntimeError, ValueError):
            pass
    return aten.view(x.contiguous(), size)


def index(x: Tensor, indices: Sequence[Tensor | None]) -> Any:
    """torch-mlir knows int64 indices only."""
    if not any(i is not None and i.dtype in _NARROW for i in indices):
        return NotImplemented
    return aten.index(x, [_int64(i) for i in indices])


def index_put(
    x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False
) -> Any:
    """torch-mlir does not count negative indices from the end, but writes there."""
    if any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices):
        return NotImplemented
    wrapped = [
        None if i is None else torch.where(i < 0, i + x.shape[d], i)
        for d, i in enumerate(map(_int64, indices))
    ]
    return aten._index_put_impl(x, wrapped, values, accumulate)


def _is_inexact(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


_NARROW = (torch.int32, torch.int16, torch.int8)


def _int64(indices: Tensor | None) -> Tensor | None:
    return None if indices is None else indices.to(torch.int64)


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.div.Tensor_mode: divide,
    aten.div.Scalar_mode: divide,
    aten.floor_divide.default: floor_divide,
    aten.floor_divide.Scalar: floor_divide,
    aten.any.default: of_bytes(aten.any),
    aten.all.default: of_bytes(aten.all),
    aten.sum.default: reduce(aten.sum),
    aten.sum.dim_IntList: reduce(aten.sum),
    aten.prod.default: reduce(aten.prod),
    aten.prod.dim_int: reduce(aten.prod),
    aten.cumsum.default: reduce(aten.cumsum),
    aten.pow.Tensor_Scalar: pow_integer,
    aten.constant_pad_nd.default: constant_pad_nd,
    aten.threshold_backward.default: threshold_backward,
    aten.view.default: view,
    aten.index.Tensor: index,
    aten.index_put.default: index_put,
}
