"""The pipelines, by name: functions of a target that return a ``Pipeline``.

Other packages add theirs by entry points (``mlcflow.plugins``).
"""

from __future__ import annotations

if not __name__.startswith("mlcflow."):
    raise ImportError(
        "import this package as 'mlcflow.pipelines'; a second import as 'pipelines' would be "
        "another package with the same contents"
    )

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mlcflow import plugins
from mlcflow.errors import MlcflowError, unknown_name
from mlcflow.pipeline import Pipeline
from mlcflow.pipelines import cpu, cuda, reference
from mlcflow.target import Target

PIPELINES: dict[str, Callable[..., Pipeline]] = {
    "reference": reference.pipeline,
    "cpu": cpu.pipeline,
    "cuda": cuda.pipeline,
}


def usual_target(name: str) -> str:
    """A target that a pipeline can be built for anywhere, as ``Target.parse`` reads it."""
    return "cuda:sm_90" if name == "cuda" else "host"


def names() -> list[str]:
    """Every pipeline: ours, then those of plug-ins."""
    return list(dict.fromkeys([*PIPELINES, *plugins.names("pipelines")]))


def function(name: str) -> Callable[..., Pipeline]:
    """The function that builds a pipeline. Raises ``MlcflowError`` for no such name.

    Raises ``PluginError`` when the name is not clear, or what it stands for does not load.
    """
    if name in plugins.names("pipelines"):
        return plugins.find("pipelines", name, PIPELINES).load()
    if name not in PIPELINES:
        raise MlcflowError(unknown_name("pipeline", name, names()))
    return PIPELINES[name]


def options(name: str) -> dict[str, inspect.Parameter]:
    """The keyword options of a pipeline, by name. Raises like :func:`function`."""
    try:
        parameters = inspect.signature(function(name), eval_str=True).parameters.values()
    except NameError as error:  # a type that is imported under TYPE_CHECKING only
        raise MlcflowError(f"pipeline '{name}': a type in its signature: {error}") from error
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}


def build(name: str, target: Target, **given: Any) -> Pipeline:
    """The pipeline ``name`` for ``target``; raises ``MlcflowError`` on an unknown option."""
    known = options(name)
    for key, value in given.items():
        if key not in known:
            raise MlcflowError(unknown_name("option", key, known, of=f"pipeline '{name}'"))
        if type(value) is not known[key].annotation:
            raise MlcflowError(
                f"option '{key}' of pipeline '{name}': expected "
                f"{known[key].annotation.__name__}, got {value!r}"
            )
    if name in PIPELINES and (target.kind == "cuda") != (name == "cuda"):
        usual = usual_target(name)  # for another, LLVM would end the process
        raise MlcflowError(
            f"pipeline '{name}': expected a target such as '{usual}', got '{target}'"
        )
    words = [] if target.native else [f"--target={target}"]
    words += [f"--option={key}={value}" for key, value in given.items()]
    found = function(name)(target, **given)
    if not isinstance(found, Pipeline):
        raise MlcflowError(f"pipeline '{name}': expected a Pipeline, got {type(found).__name__}")
    # The name is what a reproducer passes as --pipeline.
    return replace(found, name=name, arguments=tuple(words))
