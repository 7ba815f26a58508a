"""What is right: the model in float64, and how far from it rounding may lead.

The bound is that of probabilistic rounding error analysis (Higham and Mary, "A new approach to
probabilistic rounding error analysis", SIAM J. Sci. Comput. 41(5), 2019): a sum of ``n`` terms
is off by more than ``LAMBDA * sqrt(n) * u`` of their size practically never, where ``u`` is the
unit roundoff. The errors of the operations of a model add up, so a result may be off by
``LAMBDA * u * sum(sqrt(n))`` of its largest element.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

LAMBDA = 8.0
_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass(frozen=True)
class Work:
    """What a call of a model takes, counted where it was run in float64.

    ``flops`` are those of its contractions and convolutions, two a multiply-add. ``bytes``:
    inputs, parameters and results, each moved once. ``tolerance`` is relative to the largest
    element of a result.
    """

    flops: int
    bytes: int
    weight_bytes: int
    tolerance: float


class Reference:
    """The model in float64."""

    def __init__(self, model: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> None:
        floating = [
            value.dtype
            for value in [*example, *model.state_dict().values()]
            if value.dtype.is_floating_point
        ]
        self.roundoff = max((torch.finfo(t).eps / 2 for t in floating), default=0.0)
        weights = sum(value.nbytes for value in model.state_dict().values())
        self.moved = weights + sum(value.nbytes for value in example)
        with torch.no_grad():
            results = model(*example)
        self.moved += sum(value.nbytes for value in results)
        self.model = model.double()
        lengths, counter = _Lengths(), _flop_counter()
        inputs = _double(example)
        with torch.no_grad(), counter, lengths:
            self.model(*inputs)
        tolerance = LAMBDA * self.roundoff * sum(math.sqrt(n) for n in lengths.found)
        self.work = Work(counter.get_total_flops(), self.moved, weights, tolerance)

    def __call__(self, inputs: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
        """The results, floating-point numbers as float64."""
        with torch.no_grad():
            return [value.numpy() for value in self.model(*_double(inputs))]


def _flop_counter() -> FlopCounterMode:
    """PyTorch's own, which does not know its attention on processors."""
    return FlopCounterMode(display=False, custom_mapping={_ATTENTION: _attention_flops})


def _attention_flops(query: Any, key: Any, value: Any, *others: Any, **named: Any) -> int:
    """Of the shapes of its operands."""
    count: int = sdpa_flop_count(query, key, value)
    return count


def _double(values: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    return [value.double() if value.dtype.is_floating_point else value for value in values]


class _Lengths(TorchDispatchMode):
    """Collects over how many terms each operation sums."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        tensors = [value for value in args if isinstance(value, torch.Tensor)]
        if tensors and not func.is_view and tensors[0].dtype.is_floating_point:
            self.found.append(_length(func.overloadpacket.__name__, tensors, results))
        return results


def _length(name: str, tensors: list[torch.Tensor], results: Any) -> int:
    """Terms of a sum of the operation; 1 where it does not sum."""
    if name in ("mm", "bmm", "mv", "dot"):
        return tensors[0].shape[-1]
    if name in ("addmm", "baddbmm", "addmv"):
        return tensors[1].shape[-1]
    if "convolution" in name:
        return math.prod(tensors[1].shape[1:])
    if "scaled_dot_product" in name:  # the scores, then the sum over all keys
        return tensors[1].shape[-1] + 2 * tensors[1].shape[-2]
    if "layer_norm" in name or "group_norm" in name:
        return 2 * tensors[0].shape[-1]
    if "softmax" in name:
        return tensors[0].shape[-1]
    result = results[0] if isinstance(results, tuple | list) else results
    return max(1, tensors[0].numel() // max(1, result.numel()))
