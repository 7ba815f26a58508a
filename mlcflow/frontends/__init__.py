"""From a model to a module: linalg on tensors, parameters by reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mlcflow.mlir import asm, clone, ir


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

    ``source`` is the module, or makes it when it is first asked for. ``module`` holds ``@main``,
    whose arguments and results carry the ``mlcflow.*`` attributes of
    ``mlcflow.dialects.attributes``. ``parameters`` are arrays by name, shared with the model.
    ``flatten(args, kwargs)`` lists the arrays of a call in the order of the inputs;
    ``unflatten(arrays)`` gives the results the structure the model gives them. ``positional``
    says that a call without keywords is flat already; ``tensors``, that a call without inputs
    gives torch tensors. ``tell`` gives the text that decides about the module, if that is known
    before there is one. ``trusted``: the code may call C functions that are not allowed otherwise.
    """

    source: ir.Module | Callable[[], ir.Module]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    flatten: Callable[[tuple, dict[str, Any]], list] = flat_arguments
    unflatten: Callable[[list], Any] = flat_results
    positional: bool = True
    tensors: bool = False
    tell: Callable[[], str] | None = None
    trusted: bool = False

    @cached_property
    def original(self) -> ir.Module:
        """The module as it was imported, which nothing changes.

        Raises ``ImportModelError`` if it is made now.
        """
        return self.source if isinstance(self.source, ir.Module) else self.source()

    @cached_property
    def module(self) -> ir.Module:
        """The module, which a pipeline changes; raises like ``original``."""
        return clone(self.original)

    def identity(self) -> str:
        """A text that is equal for equal modules; empty if none is known."""
        return self.tell() if self.tell else asm(self.original)
