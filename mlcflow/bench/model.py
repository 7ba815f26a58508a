"""The model that every side is given: tensors in, a tuple of tensors out."""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click
import numpy as np
import torch
from torch.utils import _pytree as pytree

from mlcflow.bench.spec import Spec
from mlcflow.bench.workloads import WORKLOADS
from mlcflow.errors import MlcflowError, unknown_name
from mlcflow.tools.model_file import as_array, check_inputs, load_model, states_shapes
from mlcflow.tools.python_file import split_name

SEED = 20


class Flat(torch.nn.Module):
    """A model called with the tensors among its arguments, that gives a tuple of tensors.

    Arguments that are no tensors stay what they were in the example.
    """

    def __init__(self, model: Any, args: tuple, kwargs: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model
        leaves, self.structure = pytree.tree_flatten((args, dict(kwargs)))
        self.places = [n for n, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
        self.others = [None if n in self.places else leaf for n, leaf in enumerate(leaves)]

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Call the model."""
        leaves = list(self.others)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self.structure)
        results = pytree.tree_leaves(self.model(*args, **kwargs))
        return tuple(each for each in results if isinstance(each, torch.Tensor))


def trivial() -> tuple[Flat, tuple[torch.Tensor, ...]]:
    """A model that computes next to nothing."""
    example = torch.zeros(1)
    return Flat(torch.nn.ReLU(), (example,), {}), (example,)


def build(name: str) -> tuple[Flat, tuple[torch.Tensor, ...]]:
    """The workload or file ``name``, with its example inputs; the same in every process.

    Raises ``click.UsageError`` for no such workload or file, ``MlcflowError`` for a file that
    does not give a PyTorch model with inputs.
    """
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    file = split_name(name)
    kwargs: Mapping[str, Any] = {}
    if file:
        model, args, kwargs = load_model(*file)
        if states_shapes(model):
            raise MlcflowError(
                f"{name}: expected a PyTorch model, which the other sides run too, got "
                f"{type(model).__name__}"
            )
        check_inputs(model, args, kwargs, file[0])
    elif name in WORKLOADS:
        model, args = WORKLOADS[name].build()
    else:
        raise click.UsageError(unknown_name("workload", name, WORKLOADS))
    if isinstance(model, torch.nn.Module):
        model = model.eval().requires_grad_(False)
    flat = Flat(model, args, kwargs)
    leaves = pytree.tree_leaves((args, dict(kwargs)))
    return flat, tuple(leaves[place].contiguous() for place in flat.places)


def checksum(model: Flat) -> int:
    """A number that differs when the weights do."""
    total = 0
    for value in model.state_dict().values():
        array = np.ascontiguousarray(as_array(value)).reshape(-1)
        total = zlib.crc32(array.view(np.uint8).data, total)
    return total


def specs(example: tuple[torch.Tensor, ...]) -> list[dict[str, Any]]:
    """A ``Spec`` for each example input, as data for JSON."""
    return [asdict(_spec(value)) for value in example]


def _spec(value: torch.Tensor) -> Spec:
    dtype = str(value.dtype).removeprefix("torch.")
    shape = tuple(value.shape)
    numbers = value.double()
    if not value.dtype.is_floating_point:
        return Spec(shape, dtype, float(numbers.min()), float(numbers.max()))
    mean, deviation = float(numbers.mean()), float(numbers.std(correction=0))
    # Zeros stand for any numbers; another constant, such as a mask of ones, for itself.
    return Spec(shape, dtype, mean, 1.0 if mean == deviation == 0 else deviation)
