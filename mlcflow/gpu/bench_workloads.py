"""What is measured on a GPU, with the mark that each should reach on a large one.

Weights are random. Tensors of 1 GiB are many times what the caches of a GPU hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlcflow.bench.workloads import WORKLOADS as MODELS

Built = tuple[Any, tuple]
"""A model and its example inputs, on the CPU."""


@dataclass(frozen=True)
class Mark:
    """What a workload should reach, in parts of what was measured in the same run.

    ``of_copy``: of the bandwidth of a copy; ``of_matmul``: of the vendor's bf16 product.
    ``within``: at most so many times the time of a side.
    """

    of_copy: float = 0.0
    of_matmul: float = 0.0
    within: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Workload:
    """A model to measure, what it is in words, and its mark."""

    about: str
    build: Callable[[], Built]
    mark: Mark


FASTER = {"eager": 1.0, "inductor": 1.0}
STREAM = Mark(of_copy=0.85, within=FASTER)
MODEL = Mark(within={"inductor": 1.5})


def _elementwise() -> Built:
    import torch

    return lambda x, y: torch.relu(x + y), (torch.empty(1 << 13, 1 << 14), torch.empty(1 << 14))


def _rows(name: str) -> Built:
    import torch
    from torch import nn

    model = nn.Softmax(-1) if name == "softmax" else nn.LayerNorm(1024)
    return model, (torch.empty(1 << 18, 1 << 10),)


def _matmul(size: int, dtype: str) -> Built:
    import torch

    kind = getattr(torch, dtype)
    return torch.matmul, tuple(torch.empty(size, size, dtype=kind) for _ in range(2))


def _linear_gelu() -> Built:
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4096, 4096), nn.GELU()).bfloat16()
    return model, (torch.empty(4096, 4096, dtype=torch.bfloat16),)


def _attention() -> Built:
    import torch

    inputs = tuple(torch.empty(8, 16, 2048, 64, dtype=torch.bfloat16) for _ in range(3))
    return torch.nn.functional.scaled_dot_product_attention, inputs


WORKLOADS: dict[str, Workload] = {
    "elementwise-1gib": Workload("relu(x + y), f32, rows of 16384", _elementwise, STREAM),
    "softmax-1gib": Workload("f32, rows of 1024", lambda: _rows("softmax"), STREAM),
    "layernorm-1gib": Workload("f32, rows of 1024", lambda: _rows("layernorm"), STREAM),
    "matmul-8192-bf16": Workload(
        "8192 cubed, two inputs", lambda: _matmul(8192, "bfloat16"), Mark(of_matmul=0.5)
    ),
    "matmul-4096-f32": Workload(
        "4096 cubed, exact f32", lambda: _matmul(4096, "float32"), Mark(within={"eager": 2.0})
    ),
    "linear-gelu-bf16": Workload("4096 cubed", _linear_gelu, Mark(within={"eager": 1.0})),
    "attention-bf16": Workload("8x16x2048x64", _attention, Mark(within={"eager": 2.0})),
    **{
        name: Workload(MODELS[name].about, MODELS[name].build, MODEL)
        for name in ("mlp-784-512-512-10", "resnet50", "bert-base-128")
    },
}
