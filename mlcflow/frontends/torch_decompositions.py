"""Operations rewritten in PyTorch before the import: torch-mlir refuses them, crashes on them,
or computes something else.

Each decomposition returns ``NotImplemented`` for the calls that torch-mlir handles well, which
then stay as they are; so what a decomposition calls must not come back to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from mlcflow.frontends.torch_nan import (
    clamp,
    clamp_max,
    hardsigmoid,
    hardtanh,
    larger,
    position,
)

aten = torch.ops.aten

LONGEST_ROW = 1 << 16
"""So many elements are summed in single precision."""


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


def var_mean(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: Any = None, keepdim: bool = False
) -> Any:
    """The mean first, then the mean square of what differs: torch-mlir goes through f64.

    In single precision, of up to ``LONGEST_ROW`` elements: of more, sums in order are not
    accurate enough.
    """
    dims = range(x.dim()) if dim is None or len(dim) == 0 else [d % x.dim() for d in dim]
    sizes = [x.shape[d] for d in dims]
    if x.dtype != torch.float32 or not all(isinstance(size, int) for size in sizes):
        return NotImplemented
    count = math.prod(sizes)
    if not 0 < count <= LONGEST_ROW:
        return NotImplemented
    mean = aten.sum.dim_IntList(x, list(dims), True) / count
    difference = x - mean
    squares = aten.sum.dim_IntList(difference * difference, list(dims), keepdim)
    divisor = count - (1 if correction is None else correction)
    variance = squares / max(divisor, 0)
    return variance, mean if keepdim else aten.squeeze.dims(mean, list(dims))


def var(x: Tensor, dim: Sequence[int] | None = None, **options: Any) -> Any:
    """As :func:`var_mean`."""
    both = var_mean(x, dim, **options)
    return both if both is NotImplemented else both[0]


def gelu(x: Tensor, *, approximate: str = "none") -> Any:
    """torch-mlir takes 0.7977 for the square root of 2 / pi, an error of 5e-5."""
    if approximate != "tanh" or x.dtype not in (torch.float32, torch.float64):
        return NotImplemented
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))
    return 0.5 * x * (1 + torch.tanh(inner))


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """``softmax(query key^T scale + mask) value``; a row without any key gives 0.

    PyTorch's decomposition scales both operands and looks for such rows in a pass of its own,
    mask or not. Here the sum of a row tells. Of f16 and bf16 only the weights and the result are
    rounded to them, as PyTorch's own kernels do.
    """
    dtype = query.dtype
    if dropout_p or dtype not in _SINGLE or query.dim() < (3 if enable_gqa else 2):
        return NotImplemented
    if enable_gqa:
        heads = query.shape[-3]
        key, value = (_repeat(x, -3, heads // x.shape[-3]) for x in (key, value))
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    query, key, value = query.float(), key.float(), value.float()
    scores = aten.matmul(query, aten.transpose.int(key, -2, -1)) * factor
    if is_causal:
        rows = torch.arange(query.shape[-2], device=query.device)
        columns = torch.arange(key.shape[-2], device=query.device)
        attn_mask = rows.unsqueeze(1) >= columns
    if attn_mask is None:
        weights = aten.softmax.int(scores, -1)
        return aten.matmul(weights.to(dtype).float(), value).to(dtype)
    if attn_mask.dtype == torch.bool:
        attn_mask = torch.where(attn_mask, 0.0, -math.inf)
    scores = scores + attn_mask
    largest = aten.amax(scores, [-1], True)
    weights = torch.exp(scores - torch.where(largest == -math.inf, 0.0, largest))
    total = aten.sum.dim_IntList(weights, [-1], True)
    weights = weights / torch.where(total == 0, 1.0, total)
    return aten.matmul(weights.to(dtype).float(), value).to(dtype)


def _repeat(x: Tensor, dim: int, count: int) -> Tensor:
    """Each slice of ``x`` along ``dim``, from the end, ``count`` times in a row."""
    size = list(x.shape)
    size[dim] *= count
    parts = [-1] * (x.dim() + 1)
    parts[dim] = count
    return x.unsqueeze(dim).expand(parts).reshape(size)


_SINGLE = (torch.float32, torch.float16, torch.bfloat16)


def _is_inexact(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


_NARROW = (torch.int32, torch.int16, torch.int8)


def _int64(indices: Tensor | None) -> Tensor | None:
    return None if indices is None else indices.to(torch.int64)


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.gelu.default: gelu,
    aten.scaled_dot_product_attention.default: attention,
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
    aten.clamp.default: clamp,
    aten.clamp.Tensor: clamp,
    aten.clamp_min.default: clamp,
    aten.clamp_max.default: clamp_max,
    aten.hardtanh.default: hardtanh,
    aten.hardsigmoid.default: hardsigmoid,
    aten.maximum.default: larger(aten.gt),
    aten.minimum.default: larger(aten.lt),
    aten.argmax.default: position(aten.max.dim, -math.inf),
    aten.argmin.default: position(aten.min.dim, math.inf),
    aten.var.correction: var,
    aten.var_mean.correction: var_mean,
}
