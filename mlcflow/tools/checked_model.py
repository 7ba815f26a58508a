"""The model that ``check``, ``verify``, ``bisect`` and ``report`` work on, and its inputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlcflow.errors import unknown_name
from mlcflow.tools.model_file import as_array, check_inputs, load_model, states_shapes
from mlcflow.tools.python_file import split_name

if TYPE_CHECKING:
    import numpy as np

    from mlcflow.frontends import Imported


def find_model(text: str) -> tuple[Any, tuple, dict[str, Any]]:
    """What ``text`` names, FILE.py[:NAME], FILE.mlir or a workload, and what to call it with.

    Raises ``click.UsageError`` if there is no such thing, ``MlcflowError`` if a file gives none.
    """
    from mlcflow.bench.workloads import WORKLOADS

    python = split_name(text)
    if python:
        found, args, kwargs = load_model(*python)
        if not states_shapes(found):
            check_inputs(found, args, kwargs, python[0])
        return found, args, dict(kwargs)
    if text in WORKLOADS:
        from mlcflow.bench.model import build

        return *build(text), {}
    if not Path(text).is_file():
        if Path(text).suffix or Path(text).exists():
            raise click.UsageError(f"no file '{text}'")
        raise click.UsageError(unknown_name("workload", text, WORKLOADS))
    return Path(text), (), {}


def load_checked(text: str) -> tuple[Imported, list[list[np.ndarray]]]:
    """The model that ``text`` names, as it enters a pipeline, and the inputs that it brings.

    It is imported in a process of its own. Raises ``ImportModelError`` with all that stands in
    the way, ``LoweringError`` when that process dies.
    """
    from mlcflow.frontends.model import read_model
    from mlcflow.isolated import import_isolated
    from mlcflow.tools.options import usual_limits

    found, args, kwargs = find_model(text)
    if states_shapes(found):
        inputs = [[as_array(value) for value in args]] if args else []
        args, kwargs = (), {}
    imported = read_model(found, args, kwargs)
    if limits := usual_limits():
        imported = import_isolated(imported, limits)
    if not states_shapes(found):
        inputs = [[as_array(value) for value in imported.flatten(args, kwargs)]]
    return imported, inputs
