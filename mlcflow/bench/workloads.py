"""What is measured: operations and models, with the mark that each should reach.

Weights are random. Models are configurations of ``transformers``, which needs no network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

Built = tuple[Any, tuple]
"""A model and its example inputs."""


@dataclass(frozen=True)
class Mark:
    """What a workload should reach.

    ``of_fma``, ``of_memory``: at least this part of the measured peak. ``within``: at most so
    many times the time of a peer, ``*`` for each. ``compile_seconds``, and ``cached_seconds`` when
    it was compiled before; ``extra_bytes`` of memory at run time beyond twice the weights.
    """

    of_fma: float = 0.0
    of_memory: float = 0.0
    within: Mapping[str, float] = field(default_factory=dict)
    compile_seconds: float = 0.0
    cached_seconds: float = 0.0
    extra_bytes: int = 0


@dataclass(frozen=True)
class Workload:
    """A model to measure: how it is built, on how many threads, and its mark."""

    about: str
    build: Callable[[], Built]
    mark: Mark
    threads: int = 2


EVERY_PEER = Mark(within={"*": 1.0})
ONE_PASS = Mark(within={"*": 1.0}, of_memory=0.7)
ODD = Mark(within={"*": 1 / 0.8})
MODEL = Mark(
    within={"eager": 1.0, "inductor": 1.0, "onnxruntime": 1.1, "openvino": 1.1},
    compile_seconds=30.0,
    cached_seconds=1.0,
    extra_bytes=150 << 20,
)
ODD_ROWS = (1, 4, 7, 16, 33)
ODD_SHAPE = (1531, 769)


def _matmul(rows: int, inner: int, columns: int) -> Built:
    import torch

    return torch.nn.Linear(inner, columns, bias=False), (torch.randn(rows, inner),)


def _matmul_activations() -> Built:
    import torch

    return torch.matmul, (torch.randn(1024, 1024), torch.randn(1024, 1024))


def _linear_gelu() -> Built:
    import torch
    from torch import nn

    return nn.Sequential(nn.Linear(1024, 4096), nn.GELU()), (torch.randn(256, 1024),)


def _mlp(batch: int, *widths: int) -> Built:
    import torch
    from torch import nn

    layers: list[nn.Module] = []
    for inner, outer in pairwise(widths):
        layers += [nn.Linear(inner, outer), nn.ReLU()]
    return nn.Sequential(*layers[:-1]), (torch.randn(batch, widths[0]),)


def _softmax() -> Built:
    import torch

    return torch.nn.Softmax(-1), (torch.randn(4096, 1024),)


def _layer_norm() -> Built:
    import torch

    return torch.nn.LayerNorm(1024), (torch.randn(4096, 1024),)


def _attention() -> Built:
    import torch

    inputs = tuple(torch.randn(1, 12, 512, 64) for _ in range(3))
    return torch.nn.functional.scaled_dot_product_attention, inputs


def _convolution() -> Built:
    import torch

    return torch.nn.Conv2d(64, 64, 3, padding=1), (torch.randn(1, 64, 56, 56),)


def _image_model(name: str, config: str) -> Built:
    import torch
    import transformers

    model = getattr(transformers, name)(getattr(transformers, config)())
    return model, (torch.randn(1, 3, 224, 224),)


def _text_model(name: str, config: str, tokens: int, **options: Any) -> Built:
    import torch
    import transformers

    settings = getattr(transformers, config)(**options)
    model = getattr(transformers, name)(settings)
    return model, (torch.randint(0, settings.vocab_size, (1, tokens)),)


WORKLOADS: dict[str, Workload] = {
    "matmul-1024": Workload(
        "1024x1024x1024, constant weight", lambda: _matmul(1024, 1024, 1024), Mark(0.85), threads=1
    ),
    "matmul-1024-activations": Workload(
        "1024x1024x1024, two inputs", _matmul_activations, Mark(0.75), threads=1
    ),
    **{
        f"matmul-odd-{rows}": Workload(
            f"{rows}x{ODD_SHAPE[0]}x{ODD_SHAPE[1]}, constant weight",
            lambda rows=rows: _matmul(rows, *ODD_SHAPE),  # type: ignore[misc]
            ODD,
        )
        for rows in ODD_ROWS
    },
    "linear-gelu": Workload("linear 256x1024x4096, GELU", _linear_gelu, EVERY_PEER),
    "mlp-784-512-512-10": Workload("batch 32", lambda: _mlp(32, 784, 512, 512, 10), EVERY_PEER),
    "mlp-784-128-10": Workload("batch 1", lambda: _mlp(1, 784, 128, 10), EVERY_PEER),
    "softmax-4096x1024": Workload("along rows", _softmax, ONE_PASS),
    "layernorm-4096x1024": Workload("along rows", _layer_norm, ONE_PASS),
    "attention-1x12x512x64": Workload("no mask", _attention, EVERY_PEER),
    "conv3x3-64-56": Workload("64 to 64 channels, 56x56, padding 1", _convolution, EVERY_PEER),
    "resnet50": Workload(
        "1x3x224x224",
        lambda: _image_model("ResNetForImageClassification", "ResNetConfig"),
        MODEL,
    ),
    "mobilenetv2": Workload(
        "1x3x224x224",
        lambda: _image_model("MobileNetV2ForImageClassification", "MobileNetV2Config"),
        MODEL,
    ),
    "bert-base-128": Workload(
        "1x128 tokens", lambda: _text_model("BertModel", "BertConfig", 128), MODEL
    ),
    "vit-b16": Workload(
        "1x3x224x224", lambda: _image_model("ViTForImageClassification", "ViTConfig"), MODEL
    ),
    "gpt2-64": Workload(
        "1x64 tokens",
        lambda: _text_model("GPT2LMHeadModel", "GPT2Config", 64, use_cache=False),
        MODEL,
    ),
}
"""The workloads by name; ``mlcflow bench --suite marks`` runs them all."""
