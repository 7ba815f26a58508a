"""The spine: frontend -> pipeline -> executable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlcflow.check.verify import check_executable
from mlcflow.errors import MlcflowError
from mlcflow.frontends import Imported
from mlcflow.frontends.mlir import import_mlir
from mlcflow.frontends.tensor_program.function import TensorFunction, import_tensor_function
from mlcflow.mlir import clone, ir
from mlcflow.pipeline import Pipeline, StageRecord
from mlcflow.runtime.executable import Executable
from mlcflow.target import Target


def compile(
    model: Any,
    *example_inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    target: Target | str | None = None,
    pipeline: str | Pipeline = "cpu",
    options: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    verify: bool = True,
    on_stage: Callable[[StageRecord], None] | None = None,
) -> Executable:
    """Compile a model for a target; the host by default.

    ``model``: a ``torch.nn.Module``, an ``ExportedProgram`` or a function of tensors, with
    ``example_inputs`` (and ``kwargs``) that fix shapes and dtypes; or a tensor function, an
    ``ir.Module``, MLIR text, or the ``Path`` of an MLIR file, which need none. ``pipeline``: a
    name, with its ``options``, or a ``Pipeline``. ``verify`` runs model and executable on copies
    of the example inputs and compares them; MLIR has no original to compare with.

    Raises ``ImportModelError``, ``LoweringError``, ``ExecutionError`` or
    ``VerificationError``, which are all ``MlcflowError``.
    """
    keywords = dict(kwargs or {})
    imported = import_model(model, example_inputs, keywords, dynamic_shapes)
    executable = load(imported, build_pipeline(pipeline, target, options), on_stage=on_stage)
    if verify and imported.tensors:
        check_executable(executable, model, example_inputs, keywords)
    return executable


def import_model(
    model: Any,
    args: tuple = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
) -> Imported:
    """Bring a model into MLIR, whatever it comes from."""
    if isinstance(model, Imported):
        return model
    if isinstance(model, ir.Module):
        return Imported(clone(model))
    if isinstance(model, TensorFunction):
        return import_tensor_function(model, args)
    if isinstance(model, str | bytes | Path):
        return import_mlir(model)
    if not callable(model) and not hasattr(model, "graph_signature"):
        raise MlcflowError(
            "model: expected a torch.nn.Module, a function of tensors, an ExportedProgram, a "
            "tensor function, an ir.Module, MLIR text or the Path of an MLIR file, got "
            f"{type(model).__name__}"
        )
    from mlcflow.frontends.torch import import_torch  # needs PyTorch, which is optional

    return import_torch(model, args, dict(kwargs or {}), dynamic_shapes=dynamic_shapes)


def build_pipeline(
    pipeline: str | Pipeline,
    target: Target | str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Pipeline:
    """The pipeline itself, or the one of that name for the target."""
    if isinstance(pipeline, Pipeline):
        return pipeline
    from mlcflow.pipelines import build

    if not isinstance(target, Target):
        target = Target.parse(target or "host")
    return build(pipeline, target, **(options or {}))


def load(
    imported: Imported,
    pipeline: Pipeline,
    *,
    start: str | None = None,
    on_stage: Callable[[StageRecord], None] | None = None,
) -> Executable:
    """Run the pipeline (from stage ``start``) and load the machine code."""
    stages = pipeline.run(imported.module, start=start, on_stage=on_stage)
    return Executable(imported.module, imported, stages, pipeline)
