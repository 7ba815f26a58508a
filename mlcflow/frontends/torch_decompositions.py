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

aten = torch.ops.aten


def product(operation: Any) -> Callable[..., Any]:
    """Products of bytes wrap around; torch-mlir crashes on some of them."""

    def decomposition(left: Tensor, right: Tensor) -> Any:
        if left.dtype not in (torch.int8, torch.uint8):
            return NotImplemented
        return operation(left.to(torch.int32), right.to(torch.int32)).to(left.dtype)

    return decomposition


def addmm(bias: Tensor, left: Tensor, right: Tensor, *, beta: int = 1, alpha: int = 1) -> Any:
    """As :func:`product`."""
    if left.dtype not in (torch.int8, torch.uint8):
        return NotImplemented
    return beta * bias + alpha * aten.mm(left, right)


def constant_pad_nd(x: Tensor, pad: Sequence[int], value: float = 0) -> Any:
    """Negative padding cuts: torch-mlir inserts at a negative offset."""
    if not any(isinstance(p, int) and p < 0 for p in pad):
        return NotImplemented
    for number in range(len(pad) // 2):
        dimension = x.dim() - 1 - number
        before, after = (max(-p, 0) for p in pad[2 * number : 2 * number + 2])
        x = aten.slice(x, dimension, before, x.shape[dimension] - after)
    return aten.constant_pad_nd(x, [max(p, 0) for p in pad], value)


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


_NARROW = (torch.int32, torch.int16, torch.int8)


def _int64(indices: Tensor | None) -> Tensor | None:
    return None if indices is None else indices.to(torch.int64)


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    **{
        operation: product(operation)
        for operation in (aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default)
    },
    aten.addmm.default: addmm,
    aten.constant_pad_nd.default: constant_pad_nd,
    aten.index.Tensor: index,
    aten.index_put.default: index_put,
}
