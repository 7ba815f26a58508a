"""From a PyTorch model to an exported program, by ``torch.export``."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch.export.graph_signature import OutputKind
from torch_mlir.extras.fx_decomp_util import get_decomposition_table

from mlcflow.errors import ImportModelError
from mlcflow.frontends.torch_decompositions import DECOMPOSITIONS


def export(
    model: Callable[..., Any], args: tuple, kwargs: dict[str, Any], dynamic_shapes: Any
) -> torch.export.ExportedProgram:
    """The exported program of a model. Raises ``ImportModelError`` when PyTorch refuses."""
    if isinstance(model, torch.export.ExportedProgram):
        return model
    model = as_module(model)
    problems = []
    # Dynamo also traces what turns a tensor into a Python number, but fewer Python programs.
    for strict in (False, True):
        try:
            with torch.no_grad(), no_collections():
                return torch.export.export(
                    model, args, kwargs, dynamic_shapes=dynamic_shapes, strict=strict
                )
        except Exception as error:  # torch.export raises many kinds, user code any kind
            problems.append(error)
    raise ImportModelError(
        f"torch.export refused the model: {type(problems[0]).__name__}: {problems[0]}\n"
        "  to see it alone: torch.export.export(model, args, strict=False)" + _hint(args)
    ) from problems[0]


def _hint(args: tuple) -> str:
    """What to try where the inputs came as one."""
    if len(args) != 1 or not isinstance(args[0], tuple | list):
        return ""
    return (
        f"\n  found one input, a {type(args[0]).__name__}; for a model that takes its elements "
        "one by one: mlcflow.compile(model, *inputs)"
    )


@contextmanager
def no_collections() -> Iterator[None]:
    """Without the cyclic garbage collector.

    Tracing makes many small objects and keeps most of them, so that collections find little and
    take a sixth of the time of an export.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def as_module(model: Callable[..., Any]) -> torch.nn.Module:
    """The model, if it is a ``torch.nn.Module``; else the function as one."""
    return model if isinstance(model, torch.nn.Module) else _Function(model)


class _Function(torch.nn.Module):
    """A function of tensors as the module that ``torch.export`` asks for."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        if isinstance(function, FunctionType):
            self.forward = _named_forward(function)  # type: ignore[method-assign]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def _named_forward(function: FunctionType) -> FunctionType:
    """The function under the name ``forward``, the only one whose source lines PyTorch records.

    Its signature also gives the inputs their names.
    """
    code = function.__code__.replace(co_name="forward")
    forward = FunctionType(
        code, function.__globals__, "forward", function.__defaults__, function.__closure__
    )
    forward.__kwdefaults__ = function.__kwdefaults__
    return forward


def decompose(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """A program in the operations that torch-mlir lowers.

    Raises ``ImportModelError`` when PyTorch refuses, when two dimensions are open, or when the
    model resizes an input.
    """
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # PyTorch warns of how it copies its own tree specs.
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            result = program.run_decompositions(get_decomposition_table() | DECOMPOSITIONS)
    except Exception as error:
        raise ImportModelError(
            f"decomposing the exported program failed: {type(error).__name__}: {error}"
        ) from error
    _check_dynamic(result)
    _check_resizes(result)
    return result


def _check_dynamic(program: torch.export.ExportedProgram) -> None:
    """Refuse two open dimensions: torch-mlir merges them wrongly, without a word.

    A view that merges two dynamic dimensions is miscompiled
    (https://github.com/llvm/torch-mlir/issues/3852).
    """
    names = sorted(
        {
            str(size)
            for node in program.graph.nodes
            if node.op == "placeholder" and isinstance(node.meta.get("val"), torch.Tensor)
            for size in node.meta["val"].shape
            if isinstance(size, torch.SymInt)
        }
    )
    if len(names) > 1:
        raise ImportModelError(
            f"dynamic_shapes: expected one open dimension, found {len(names)} ({', '.join(names)});"
            " give the same torch.export.Dim to all, or compile once for each size"
        )


def _check_resizes(program: torch.export.ExportedProgram) -> None:
    """Refuse ``out=`` of another shape, for which PyTorch gives the argument new memory."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    for spec in program.graph_signature.output_specs:
        if spec.kind == OutputKind.USER_INPUT_MUTATION:
            before, after = values[spec.target], values[spec.arg.name]
            if before.shape != after.shape:
                raise ImportModelError(
                    f"input '{spec.target}': the model resizes it from {list(before.shape)} to "
                    f"{list(after.shape)}; pass a tensor of that shape"
                )
