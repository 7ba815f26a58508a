"""From a model to a module: linalg on tensors, parameters by reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlcflow.mlir import ir


def flat_arguments(args: tuple, kwargs: dict[str, Any]) -> list:
    """Positional arrays are the inputs, in order; there are no keyword inputs."""
    if kwargs:
        raise TypeError(f"unexpected keyword arguments: {', '.join(kwargs)}")
    return list(args)


def flat_results(results: list) -> Any:
    """One result is returned as it is, several as a tuple."""
    return results[0] if len(results) == 1 else tuple(results)


@dataclass(frozen=True)
class Imported:
    """A model as it enters a pipeline.

    ``module`` holds ``@main``, whose arguments and results carry the ``mlcflow.*`` attributes
    of ``mlcflow.dialects.attributes``. ``parameters`` are arrays by name, shared with the
    model. ``flatten(args, kwargs)`` lists the arrays of a call in the order of the inputs;
    ``unflatten(arrays)`` gives the results the structure the model gives them. ``positional``
    says that a call without keywords is flat already; ``tensors``, that a call without inputs
    gives torch tensors.
    """

    module: ir.Module
    parameters: Mapping[str, Any] = field(default_factory=dict)
    flatten: Callable[[tuple, dict[str, Any]], list] = flat_arguments
    unflatten: Callable[[list], Any] = flat_results
    positional: bool = True
    tensors: bool = False
