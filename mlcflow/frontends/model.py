"""Bringing a model into MLIR, whatever it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlcflow.errors import MlcflowError
from mlcflow.frontends import Imported
from mlcflow.frontends.mlir import import_mlir
from mlcflow.frontends.tensor_program.function import TensorFunction, import_tensor_function
from mlcflow.mlir import clone, ir


def read_model(
    model: Any,
    args: tuple = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    *,
    trusted: bool = False,
) -> Imported:
    """The model as it enters a pipeline; it is parsed or lowered when its module is asked for.

    ``trusted``: it may hold and call what only the code of somebody who is known may.
    Raises ``ImportModelError``, and ``MlcflowError`` for what is no model.
    """
    if isinstance(model, Imported):
        return model
    if isinstance(model, ir.Module):
        return Imported(clone(model), trusted=trusted)
    if isinstance(model, TensorFunction):
        return import_tensor_function(model, args)
    if isinstance(model, str | bytes | Path):
        return import_mlir(model, trusted=trusted)
    if not callable(model) and not hasattr(model, "graph_signature"):
        raise MlcflowError(
            "model: expected a torch.nn.Module, a function of tensors, an ExportedProgram, a "
            "tensor function, an ir.Module, MLIR text or the Path of an MLIR file, got "
            f"{type(model).__name__}"
        )
    from mlcflow.frontends.torch import import_torch  # needs PyTorch, which is optional

    return import_torch(model, args, dict(kwargs or {}), dynamic_shapes=dynamic_shapes)
