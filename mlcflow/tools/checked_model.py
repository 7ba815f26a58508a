"""The model that ``check``, ``verify`` and ``bisect`` work on, and its example inputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlcflow.tools.model_file import as_array, check_inputs, load_model, states_shapes
from mlcflow.tools.python_file import split_name

if TYPE_CHECKING:
    import numpy as np

    from mlcflow.frontends import Imported


def load_checked(text: str) -> tuple[Imported, list[list[np.ndarray]]]:
    """The model that ``text`` names, as it enters a pipeline, and the inputs that it brings.

    Raises ``ImportModelError`` with all that stands in the way.
    """
    from mlcflow.compiler import import_model

    python = split_name(text)
    if python is None:
        if not Path(text).is_file():
            raise click.UsageError(f"no file '{text}'")
        return import_model(Path(text)), []
    found, args, kwargs = load_model(*python)
    if states_shapes(found):
        return import_model(found), [[as_array(value) for value in args]] if args else []
    check_inputs(found, args, kwargs, python[0])
    imported = import_model(found, args, dict(kwargs))
    return imported, [[as_array(value) for value in imported.flatten(args, dict(kwargs))]]
