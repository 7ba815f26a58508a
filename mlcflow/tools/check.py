"""``mlcflow check``: does a model get through, and what stops it?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from mlcflow.tools.options import json_option, parse_pipeline, pipeline_option, target_options
from mlcflow.tools.python_file import near

if TYPE_CHECKING:
    from mlcflow.check.blockers import Blocker
    from mlcflow.check.coverage import Coverage


@click.command(name="check")
@click.argument("model")
@pipeline_option(default="cpu")
@target_options
@json_option
def command(
    model: str, pipeline: str, target: str, options: tuple[str, ...], as_json: bool
) -> None:
    """List everything that stops a model on its way to machine code.

    MODEL is as in `mlcflow run`. The whole way is walked: torch.export, the import to linalg,
    every stage of the pipeline, LLVM. What is refused is cut out, and the rest goes on. Each
    operation is listed with its count, its shapes and types, your line, who refuses it, and
    what to do. Exits with 1 if there is any; `--json` is for CI.

    \b
    mlcflow check model.py
    mlcflow check model.py:make --pipeline=reference --json
    """
    from mlcflow.check.coverage import check_coverage
    from mlcflow.tools.checked_model import find_model

    chosen = parse_pipeline(pipeline, target, options)
    found = check_coverage(*find_model(model), chosen)
    if as_json:
        data = {"model": model, "pipeline": chosen.name, **found.as_data()}
        click.echo(json.dumps(data, indent=2))
    else:
        click.echo(_page(model, chosen.name, found))
    if found.blockers:
        raise click.exceptions.Exit(1)


def _page(model: str, pipeline: str, found: Coverage) -> str:
    if not found.blockers:
        way = " -> ".join(found.stages)
        return "\n".join([f"{model}: nothing stands in the way", f"  {way}", *_kernels(found)])
    count = len(found.blockers)
    word = "thing stands" if count == 1 else "things stand"
    lines = [f"{model}: {count} {word} in the way of pipeline '{pipeline}'"]
    for blocker in found.blockers:
        lines += ["", *_blocker(blocker)]
    rest = " -> ".join(found.stages)
    lines += ["", f"without them: {rest}" if rest else "what else there is cannot be seen yet"]
    return "\n".join(lines + _kernels(found))


def _blocker(blocker: Blocker) -> list[str]:
    name = blocker.operation or "the model"
    types = f"({', '.join(blocker.types)})" if blocker.types else ""
    times = f", {blocker.count} times" if blocker.count > 1 else ""
    lines = [f"{name}{types}{times}"]
    lines += [f"  at       {near(blocker.where)}"] if blocker.where else []
    return [
        *lines,
        f"  refused  {blocker.stage}: {blocker.reason}",
        f"  remedy   {blocker.remedy}",
    ]


def _kernels(found: Coverage) -> list[str]:
    if not found.kernels:
        return []
    calls = sum(each.calls for each in found.kernels)
    rules = ", ".join(f"{count} {name}" for name, count in sorted(found.rules.items()))
    kernels, places = _count(len(found.kernels), "kernel"), _count(calls, "place")
    lines = [f"  {kernels}, called at {places}" + (f": {rules}" if rules else "")]
    fallen = [each.kernel for each in found.kernels if each.rule == "loops"]
    if fallen:
        lines.append(f"  no rule applies to {', '.join(fallen)}: plain loops")
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
