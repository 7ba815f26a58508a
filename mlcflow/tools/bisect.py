"""``mlcflow bisect``: where a pipeline goes wrong, and the least program that shows it."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlcflow.atomic import write_whole
from mlcflow.tools.options import json_option, parse_pipeline, pipeline_option, target_options
from mlcflow.tools.python_file import near
from mlcflow.tools.verify import limit_options, read_limits

if TYPE_CHECKING:
    from mlcflow.check.bisect import Culprit
    from mlcflow.pipeline import Pipeline


@click.command(name="bisect")
@click.argument("model")
@pipeline_option(default="cpu")
@target_options
@limit_options(seconds=30.0)
@click.option(
    "--reduce-seconds",
    default=45.0,
    show_default=True,
    help="For making the program smaller.",
)
@click.option(
    "-o",
    "--output",
    default="reproducer.mlir",
    show_default=True,
    metavar="FILE",
    help="Where to write the least program.",
)
@json_option
def command(
    model: str,
    pipeline: str,
    target: str,
    options: tuple[str, ...],
    seed: int,
    memory: float | None,
    seconds: float,
    reduce_seconds: float,
    output: str,
    as_json: bool,
) -> None:
    """Find the stage, the step and the kernel that are wrong, crash or hang.

    MODEL is as in `mlcflow run`. Everything runs in processes apart, under limits. Then the
    kernel is made smaller as long as the failure stays: first operations go, then sizes shrink.
    What is left is written to a file without weights: numbers are made up again from shapes,
    types and the seed. Exits with 1 if something was found.

    \b
    mlcflow bisect model.py
    mlcflow bisect model.py --pipeline=mine.py --seconds=20
    """
    from mlcflow.check.bisect import bisect
    from mlcflow.tools.checked_model import load_checked

    chosen = parse_pipeline(pipeline, target, options)
    imported, inputs = load_checked(model)
    found = bisect(
        imported,
        chosen,
        inputs=inputs,
        seed=seed,
        limits=read_limits(seconds, memory),
        seconds=reduce_seconds,
        say=lambda text: None if as_json else click.echo(text),
    )
    if found is None:
        data: dict[str, Any] = {"found": False}
        text = "nothing is wrong: the model agrees with float64 at every stage, and each kernel"
    else:
        path = Path(output)
        again = reproduce(found, chosen, path)
        write_whole(path, _page(found, again))
        data = {"found": True, **asdict(found), "file": output, "command": again}
        text = _report(found, path, again)
    click.echo(json.dumps(data, indent=2) if as_json else text)
    if found is not None:
        raise click.exceptions.Exit(1)


def reproduce(found: Culprit, pipeline: Pipeline, path: Path) -> str:
    """The command that shows the failure again; empty if the pipeline lives in Python only."""
    if pipeline.arguments is None:
        return ""
    words = ["mlcflow", "verify", str(path), f"--pipeline={pipeline.name}", *pipeline.arguments]
    if found.failure.while_ != "run":
        words[1] = "opt"
        words.append(f"--until={found.stage}")
    if found.start is not None:
        words.append(f"--start={found.start}")
    return " ".join(map(shlex.quote, words))


def _page(found: Culprit, again: str) -> str:
    """The program, under what it shows."""
    lines = [f"// {found.failure.kind} at stage '{found.stage}', step '{' or '.join(found.steps)}'"]
    if again:
        lines.append(f"// RUN: {again}")
    return "\n".join([*lines, found.program.rstrip("\n"), ""])


def _report(found: Culprit, path: Path, again: str) -> str:
    lines = [
        "",
        f"stage   {found.stage}",
        f"step    {' or '.join(found.steps) or '-'}",
        f"kernel  {found.kernel or 'none by itself'}",
        *([f"at      {near(found.lines)}"] if found.lines else []),
        f"what    {found.failure.kind}: {found.failure.message}",
        "",
        found.program.rstrip("\n"),
        "",
        f"{len(found.program.splitlines())} lines in {path}, after {found.tried} smaller programs",
    ]
    return "\n".join([*lines, *([f"to see it again: {again}"] if again else [])])
