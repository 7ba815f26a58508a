"""The options that several commands share, and the pipelines they describe."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from mlcflow.errors import MlcflowError, PluginError, unknown_name
from mlcflow.tools.python_file import call, execute, member, split_name

if TYPE_CHECKING:
    from mlcflow.check.isolate import Limits
    from mlcflow.pipeline import Pipeline
    from mlcflow.target import Target

F = TypeVar("F", bound=Callable[..., Any])

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def pipeline_option(*, default: str | None) -> Callable[[F], F]:
    """``--pipeline``: a name of ``mlcflow pipelines``, or ``FILE.py:name``."""
    return click.option(
        "--pipeline",
        metavar="NAME",
        default=default,
        show_default=default is not None,
        help="A name that `mlcflow pipelines` lists, or FILE.py:NAME for a Pipeline or a "
        "function of the target that returns one.",
    )


def target_options(function: F) -> F:
    """``--target`` and ``--option``."""
    function = click.option(
        "--option",
        "options",
        multiple=True,
        metavar="KEY=VALUE",
        help="An option of the pipeline; may be repeated.",
    )(function)
    return click.option(
        "--target",
        default="host",
        show_default=True,
        help="`host`, cpu:CHIP such as cpu:haswell, or cuda:CHIP such as cuda:sm_90.",
    )(function)


def isolation_options(function: F) -> F:
    """``--no-isolate``, ``--time-limit``, ``--memory-limit``, as one argument ``limits``."""

    @click.option("--no-isolate", is_flag=True, help="Compile in this process, without limits.")
    @click.option(
        "--time-limit",
        type=click.FloatRange(0, min_open=True),
        metavar="SECONDS",
        help="Give up compiling after this time.  [default: 1800]",
    )
    @click.option(
        "--memory-limit",
        type=click.FloatRange(0, min_open=True),
        metavar="GIB",
        help="Give up compiling when it needs more memory.  [default: half of the machine's]",
    )
    @wraps(function)
    def command(
        *args: Any,
        no_isolate: bool,
        time_limit: float | None,
        memory_limit: float | None,
        **given: Any,
    ) -> Any:
        limits = _limits(no_isolate, time_limit, memory_limit)
        return function(*args, limits=limits, **given)

    return cast(F, command)


def _limits(no_isolate: bool, seconds: float | None, gib: float | None) -> Limits | None:
    """The limits of the process that compiles; ``None`` where there is none of its own."""
    from mlcflow.check.isolate import Limits, is_supported

    limited = seconds is not None or gib is not None
    if no_isolate and limited:
        raise click.UsageError("--no-isolate excludes --time-limit and --memory-limit")
    if not is_supported() and limited:
        raise click.UsageError("--time-limit and --memory-limit need Linux")
    if no_isolate:
        return None
    if not limited:
        return usual_limits()
    return Limits(seconds or Limits.seconds, int(gib * 2**30) if gib else None)


def usual_limits() -> Limits | None:
    """The limits of commands that are not told any; ``None`` where the system has none."""
    from mlcflow.check.isolate import Limits, is_supported

    return Limits() if is_supported() else None


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def parse_target(text: str) -> Target:
    """The target; a ``click.UsageError`` when there is no such."""
    from mlcflow.target import Target

    try:
        return Target.parse(text)
    except MlcflowError as error:
        raise click.UsageError(str(error)) from error


def parse_pipeline(name: str, target: str, options: tuple[str, ...]) -> Pipeline:
    """The pipeline that ``--pipeline``, ``--target`` and ``--option`` describe.

    Raises ``click.UsageError`` for an unknown pipeline, target or option, ``PluginError`` for
    a pipeline of another package that does not load.
    """
    machine, file = parse_target(target), split_name(name)
    if file:
        return _pipeline_of_file(*file, name, machine, options)
    from mlcflow import pipelines

    try:
        given = _parse_options(name, pipelines.options(name), options)
        return pipelines.build(name, machine, **given)
    except PluginError:
        raise  # the command was understood
    except MlcflowError as error:
        raise click.UsageError(str(error)) from error


def _pipeline_of_file(
    path: Any, attribute: str, spec: str, target: Target, options: tuple[str, ...]
) -> Pipeline:
    from mlcflow.pipeline import Pipeline

    found = member(execute(path), path, attribute or "pipeline")
    given: dict[str, Any] = {}
    if callable(found):
        parameters = inspect.signature(found, eval_str=True).parameters.values()
        known = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
        given = _parse_options(spec, known, options)
        found = call(found, path, target, **given)
    if not isinstance(found, Pipeline):
        raise click.UsageError(f"{spec}: expected a Pipeline, got {type(found).__name__}")
    # The name is what a reproducer passes as --pipeline.
    words = [] if target.native else [f"--target={target}"]
    words += [f"--option={text}" for text in options]
    return replace(found, name=spec, arguments=tuple(words))


def _parse_options(
    pipeline: str, known: Mapping[str, inspect.Parameter], texts: tuple[str, ...]
) -> dict[str, Any]:
    given = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"--option: expected KEY=VALUE, got '{text}'")
        if key not in known:
            raise click.UsageError(unknown_name("option", key, known, of=f"pipeline '{pipeline}'"))
        given[key] = _value(key, value, known[key].annotation)
    return given


def _value(key: str, text: str, kind: type) -> Any:
    """``text`` as a value of the option's declared type."""
    try:
        return _BOOLEANS[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError) as error:
        raise click.UsageError(f"option '{key}': expected {kind.__name__}, got '{text}'") from error
