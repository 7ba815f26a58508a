"""Operations through which NaN goes in PyTorch, and does not in torch-mlir."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def clamp(x: Tensor, low: Any = None, high: Any = None) -> Any:
    """NaN stays NaN: torch-mlir makes it one of the bounds."""
    if not x.dtype.is_floating_point:
        return NotImplemented
    if any(isinstance(bound, Tensor) and bound.dtype != x.dtype for bound in (low, high)):
        return NotImplemented
    if low is not None:
        x = torch.where(x < low, low, x)
    return x if high is None else torch.where(x > high, high, x)


def clamp_max(x: Tensor, high: Any) -> Any:
    """As :func:`clamp`."""
    return clamp(x, None, high)


def hardtanh(x: Tensor, low: Any = -1, high: Any = 1) -> Any:
    """As :func:`clamp`."""
    return clamp(x, low, high)


def hardsigmoid(x: Tensor) -> Any:
    """As :func:`clamp`."""
    return clamp(x + 3, 0, 6) / 6


def larger(greater: Any) -> Callable[..., Any]:
    """``maximum`` and ``minimum``: NaN if either is; torch-mlir gives the second."""

    def decomposition(x: Tensor, y: Tensor) -> Any:
        if x.dtype != y.dtype or not x.dtype.is_floating_point:
            return NotImplemented
        return torch.where(greater(x, y) | (x != x), x, y)

    return decomposition


def position(largest: Any, least: float) -> Callable[..., Any]:
    """``argmax`` and ``argmin``: the first NaN if there is one, which torch-mlir passes over."""

    def decomposition(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
        if not x.dtype.is_floating_point or x.dim() == 0 or (dim is None and keepdim):
            return NotImplemented
        if dim is None:
            x, dim = x.flatten(), 0
        nan = x != x
        found, first = aten.max.dim(nan.to(torch.int32), dim, keepdim)
        return torch.where(found > 0, first, largest(torch.where(nan, least, x), dim, keepdim)[1])

    return decomposition
