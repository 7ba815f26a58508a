"""Built-in examples: small models, trained on data that is installed with the toolkit."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mlcflow.check.packages import install_command, packages
from mlcflow.errors import MlcflowError

if TYPE_CHECKING:
    from mlcflow.pipeline import Pipeline

EXAMPLES = {
    "digits": "an MLP and a CNN that read handwritten digits",
    "chargpt": "a small GPT that writes like Python's documentation, letter by letter",
}
"""Each example by name; the module of that name has ``run``."""

PIPELINES = ("reference", "cpu")
"""The names of the pipelines that an example compares, if none is asked for."""

EXTRAS = ("torch", "examples")
"""The extras of mlcflow that hold what the examples need."""


def run(
    name: str,
    pipelines: list[Pipeline],
    say: Callable[[str], None] = print,
    *,
    quick: bool = False,
    dump_dir: Path | None = None,
) -> dict[str, Any]:
    """Train the models of an example, compile them with each pipeline, compare with PyTorch.

    ``say`` receives what there is to read, line by line; the result is the same as data for
    JSON. ``quick`` trains for a moment only. ``dump_dir`` receives the IR of each stage. Raises
    ``VerificationError`` when a compiled model does not do what PyTorch does, and
    ``MlcflowError`` when a package that the example needs is not installed.
    """
    module = _load(name)
    report: dict[str, Any] = module.run(pipelines, say, quick=quick, dump_dir=dump_dir)
    return {"example": name, **report}


def _load(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"mlcflow.examples.{name}")
    except ModuleNotFoundError as error:
        missing = [p for p in packages() if p.extra in EXTRAS and p.installed is None]
        if not missing:
            raise
        names = " and ".join(package.name for package in missing)
        raise MlcflowError(
            f"the example '{name}' needs {names}: {install_command(missing)}"
        ) from error
