"""``mlcflow pipelines``: the pipelines, their stages, steps and options."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

import click

from mlcflow.errors import MlcflowError, unknown_name
from mlcflow.tools.options import json_option, parse_target

if TYPE_CHECKING:
    from mlcflow.pipeline import Step


@click.command(name="pipelines")
@click.argument("name", required=False)
@click.option("--target", help="`host`, cpu:CHIP or cuda:CHIP; by default, what suits.")
@json_option
def command(name: str | None, target: str | None, as_json: bool) -> None:
    """List the pipelines; with NAME, the stages, steps and options of one."""
    from mlcflow import pipelines

    names = pipelines.names()
    if name is not None and name not in names:
        raise click.UsageError(unknown_name("pipeline", name, names))
    targets = {each: parse_target(target or pipelines.usual_target(each)) for each in names}
    if name:
        found = [_describe(name, targets[name])]
    else:
        found = [_describe_or_say_why_not(each, targets[each]) for each in names]
    if as_json:
        click.echo(json.dumps(found, indent=2, default=str))
    elif name:
        click.echo(_page(found[0]))
    else:
        click.echo("\n".join(_summary(each) for each in found))
        click.echo("\nThe steps of one: mlcflow pipelines NAME")


def _describe_or_say_why_not(name: str, target: Any) -> dict[str, Any]:
    """One that does not load must not hide the others."""
    try:
        return _describe(name, target)
    except MlcflowError as error:
        return {"name": name, "problem": str(error)}


def _describe(name: str, target: Any) -> dict[str, Any]:
    """The pipeline as data, from the function that builds it."""
    from mlcflow import pipelines

    pipeline = pipelines.build(name, target)
    return {
        "name": name,
        "summary": _first_paragraph(pipelines.function(name)),
        "opt_level": pipeline.opt_level,
        "options": [
            {"name": option.name, "type": _type(option), "default": option.default}
            for option in pipelines.options(name).values()
        ],
        "stages": [
            {"name": stage.name, "steps": [_step(step) for step in stage.steps]}
            for stage in pipeline.stages
        ],
    }


def _step(step: Step) -> dict[str, str]:
    from mlcflow.passes import Pass
    from mlcflow.pipeline import step_name

    if isinstance(step, Pass):
        return {"kind": "pass", "name": step_name(step), "summary": ""}
    return {"kind": "function", "name": step_name(step), "summary": _first_paragraph(step)}


def _type(option: inspect.Parameter) -> str:
    return getattr(option.annotation, "__name__", str(option.annotation))


def _first_paragraph(function: Any) -> str:
    paragraph = (inspect.getdoc(function) or "").split("\n\n")[0]
    return " ".join(paragraph.split()).replace("``", "")


def _summary(pipeline: dict[str, Any]) -> str:
    if "problem" in pipeline:
        return f"{pipeline['name']:<10s} {pipeline['problem']}"
    stages = ", ".join(stage["name"] for stage in pipeline["stages"])
    return f"{pipeline['name']:<10s} {pipeline['summary']}\n           stages: {stages}"


def _page(pipeline: dict[str, Any]) -> str:
    lines = [f"{pipeline['name']}: {pipeline['summary']}", "", "options (--option KEY=VALUE)"]
    lines += [f"  {o['name']}: {o['type']} = {o['default']}" for o in pipeline["options"]]
    if not pipeline["options"]:
        lines[-1] = "options: none"
    for stage in pipeline["stages"]:
        lines += ["", f"stage {stage['name']}"]
        for step in stage["steps"]:
            lines.append(f"  {step['name']}")
            if step["summary"]:
                lines.append(f"      {step['summary']}")
    return "\n".join(lines)
