"""The pipelines, by name: functions of a target that return a ``Pipeline``."""

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

from mlcflow.errors import MlcflowError, unknown_name
from mlcflow.pipeline import Pipeline
from mlcflow.pipelines import cpu, reference
from mlcflow.target import Target

PIPELINES: dict[str, Callable[..., Pipeline]] = {
    "reference": reference.pipeline,
    "cpu": cpu.pipeline,
}


def options(name: str) -> dict[str, inspect.Parameter]:
    """The keyword options of a pipeline, by name. Raises ``MlcflowError`` for no such name."""
    if name not in PIPELINES:
        raise MlcflowError(unknown_name("pipeline", name, PIPELINES))
    parameters = inspect.signature(PIPELINES[name], eval_str=True).parameters.values()
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
    words = [] if target.native else [f"--target={target}"]
    words += [f"--option={key}={value}" for key, value in given.items()]
    return replace(PIPELINES[name](target, **given), arguments=tuple(words))
