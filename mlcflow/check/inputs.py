"""Inputs that find mistakes: fresh numbers, and those on which arithmetic trips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from mlcflow.errors import MlcflowError
from mlcflow.runtime.interface import Port
from mlcflow.tools.model_file import as_array

KINDS = ("example", "random", "zeros", "negative", "tiny", "huge", "special")
"""``special`` has a few NaN and infinities among normal numbers."""


def make_arrays(
    ports: Sequence[Port], kind: str, seed: int, examples: Sequence[np.ndarray] | None = None
) -> list[np.ndarray] | None:
    """An array a port; ``None`` where the kind adds nothing to another.

    Whole numbers, which are mostly indices, are drawn from those of the ``examples``, else 0
    or 1. The same seed gives the same numbers on every machine.
    """
    if kind == "example":
        return None if examples is None else list(examples)
    floating = [is_floating(port.numpy) for port in ports]
    if not any(floating) and kind not in ("random", "zeros"):
        return None
    generator = np.random.default_rng((seed, KINDS.index(kind)))
    given = examples if examples is not None else [None] * len(ports)
    return [
        _make(port, kind, generator, example) for port, example in zip(ports, given, strict=True)
    ]


def is_floating(dtype: np.dtype) -> bool:
    """Whether numbers of the type have a fraction: bfloat16 and complex ones, too."""
    return dtype.kind in "fc" or dtype == ml_dtypes.bfloat16


def _make(
    port: Port, kind: str, generator: np.random.Generator, example: np.ndarray | None
) -> np.ndarray:
    shape = port.shape if example is None else example.shape
    if -1 in shape:
        raise MlcflowError(f"{port}: its size is open; give an example input")
    if not is_floating(port.numpy):
        choice = np.arange(2) if example is None or not example.size else np.unique(example)
        drawn = generator.choice(choice, shape) if kind != "zeros" else np.full(shape, choice[0])
        return np.asarray(drawn).astype(port.numpy)
    values = _numbers(kind, shape, port.numpy, generator)
    if port.numpy.kind == "c":
        values = values + 1j * _numbers(kind, shape, port.numpy, generator)
    return np.asarray(values).astype(port.numpy)


def _numbers(
    kind: str, shape: tuple[int, ...], dtype: np.dtype, generator: np.random.Generator
) -> np.ndarray:
    values = np.asarray(generator.standard_normal(shape))
    if kind == "zeros":
        return np.zeros(shape)
    if kind == "negative":
        return -np.abs(values)
    largest = float(ml_dtypes.finfo(dtype).max)
    if kind == "tiny":
        return values * largest**-0.5
    if kind == "huge":
        return values * largest**0.3
    if kind == "special":
        where = generator.random(shape)
        values = np.where(where < 0.02, np.nan, values)
        values = np.where((where >= 0.02) & (where < 0.04), np.inf, values)
        return np.where((where >= 0.04) & (where < 0.06), -np.inf, values)
    return values


def uneven(parameters: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The parameters, but vectors of equal numbers, such as a bias of zeros, with others.

    A stage that forgets to add zeros, or to multiply by ones, would go unnoticed.
    """
    generator = np.random.default_rng(seed)
    return {name: _uneven(value, generator) for name, value in parameters.items()}


def _uneven(value: Any, generator: np.random.Generator) -> Any:
    if len(value.shape) != 1 or value.shape[0] < 2:
        return value
    array = as_array(value)
    if not is_floating(array.dtype) or (array != array[0]).any() or not np.isfinite(array[0]):
        return value
    noise = 0.1 * generator.standard_normal(array.shape)
    return (array * (1 + noise) if array[0] else noise).astype(array.dtype)
