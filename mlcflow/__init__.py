"""mlcflow: lower machine-learning models to native code with MLIR pipelines in Python."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlcflow import language as language
    from mlcflow.compiler import compile as compile
    from mlcflow.errors import ExecutionError as ExecutionError
    from mlcflow.errors import ImportModelError as ImportModelError
    from mlcflow.errors import LoweringError as LoweringError
    from mlcflow.errors import MlcflowError as MlcflowError
    from mlcflow.errors import PluginError as PluginError
    from mlcflow.errors import ScheduleError as ScheduleError
    from mlcflow.errors import VerificationError as VerificationError
    from mlcflow.frontends.tensor_program.einsum import einsum_function as einsum_function
    from mlcflow.frontends.tensor_program.function import from_python as from_python
    from mlcflow.frontends.tensor_program.function import tensor_function as tensor_function
    from mlcflow.frontends.tensor_program.to_python import to_python as to_python
    from mlcflow.language import Tensor as Tensor
    from mlcflow.language import grid as grid
    from mlcflow.language import reduce as reduce
    from mlcflow.language import spatial as spatial
    from mlcflow.passes import Pass as Pass
    from mlcflow.pipeline import Pipeline as Pipeline
    from mlcflow.pipeline import Stage as Stage
    from mlcflow.runtime.executable import Executable as Executable
    from mlcflow.runtime.libraries import library as library
    from mlcflow.runtime.library import Library as Library
    from mlcflow.schedule.sampling import search_space as search_space
    from mlcflow.schedule.schedule import Schedule as Schedule
    from mlcflow.schedule.trace import replay as replay
    from mlcflow.schedule.tune import tune as tune
    from mlcflow.target import Target as Target

__version__ = "0.1.0"

_HOMES = {
    "compile": "compiler",
    "Executable": "runtime.executable",
    "Pass": "passes",
    "Pipeline": "pipeline",
    "Schedule": "schedule.schedule",
    "Stage": "pipeline",
    "Target": "target",
    "Tensor": "language",
    "einsum_function": "frontends.tensor_program.einsum",
    "from_python": "frontends.tensor_program.function",
    "grid": "language",
    "library": "runtime.libraries",
    "Library": "runtime.library",
    "language": "language",
    "reduce": "language",
    "replay": "schedule.trace",
    "search_space": "schedule.sampling",
    "spatial": "language",
    "tensor_function": "frontends.tensor_program.function",
    "to_python": "frontends.tensor_program.to_python",
    "tune": "schedule.tune",
    "ExecutionError": "errors",
    "ImportModelError": "errors",
    "LoweringError": "errors",
    "MlcflowError": "errors",
    "PluginError": "errors",
    "ScheduleError": "errors",
    "VerificationError": "errors",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Load MLIR only when something that needs it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mlcflow' has no attribute {name!r}")
    if name == "language":
        return importlib.import_module("mlcflow.language")  # the module itself
    return getattr(importlib.import_module(f"mlcflow.{_HOMES[name]}"), name)
