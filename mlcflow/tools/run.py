"""``mlcflow run``: compile a model and run it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from mlcflow.examples import EXAMPLES
from mlcflow.tools.options import (
    isolation_options,
    json_option,
    parse_pipeline,
    pipeline_option,
    target_options,
    usual_limits,
)

Say = Callable[[str], None]

_HELP = f"""Compile MODEL and run it, on inputs that it brings or that you give.

\b
MODEL is one of
  FILE.py[:NAME]  PyTorch. NAME (`model` if not given) is a torch.nn.Module or a
                  function of tensors, with the file's `inputs` as example
                  inputs; or a function or class without arguments, which gives
                  the model, or the pair (model, inputs). NAME may also be a
                  tensor function of mlcflow.
  FILE.mlir       MLIR text with a function @main. Without --input it runs on
                  made-up numbers, the same each time; so do tensor functions.
  {" | ".join(EXAMPLES):<15s} a built-in example

The file is executed as Python, as `python FILE.py` would. What the compiled model computes is
compared with PyTorch; otherwise, with the pipeline `reference`.

\b
mlcflow run model.py --repeat=100
mlcflow run model.py:make --input=x.npy --output=y.npy --pipeline=reference
mlcflow run digits
"""


@click.command(name="run", help=_HELP, short_help="Compile a model and run it.")
@click.argument("model")
@click.option(
    "--input", "inputs", multiple=True, metavar="X.npy", help="An input; repeat for each, in order."
)
@click.option(
    "--output", "outputs", multiple=True, metavar="Y.npy", help="Where to write a result; repeat."
)
@pipeline_option(default=None)
@target_options
@click.option("--repeat", type=click.IntRange(1), metavar="N", help="Time N calls.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Use at most N threads.")
@click.option("--memory", is_flag=True, help="Print what memory it takes.")
@click.option("--dump-dir", metavar="DIR", help="Write the IR of each stage into this directory.")
@click.option("--no-verify", is_flag=True, help="Do not compare the results.")
@click.option("--quick", is_flag=True, help="Examples: train for a moment only.")
@click.option(
    "--trusted",
    is_flag=True,
    help="Let FILE.mlir hold LLVM dialect and call any C function: it can do what you can.",
)
@isolation_options
@json_option
def command(model: str, as_json: bool, **given: Any) -> None:
    """Run an example or the model of a file; the text of ``--help`` is above."""
    # print, not click.echo: a line must go through the stream that knows of the spinner.
    say: Say = (lambda text: None) if as_json else partial(print, flush=True)
    if model in EXAMPLES:
        report = _run_example(model, say, given)
    else:
        from mlcflow.tools.run_file import run_file

        report = run_file(model, say, given)
    if as_json:
        click.echo(json.dumps(report, indent=2))


def _run_example(name: str, say: Say, given: dict[str, Any]) -> dict[str, Any]:
    for option in (
        "inputs",
        "outputs",
        "options",
        "repeat",
        "threads",
        "memory",
        "no_verify",
        "trusted",
    ):
        if given[option]:
            word = {"inputs": "input", "outputs": "output", "options": "option"}.get(option, option)
            raise click.UsageError(f"the example '{name}' has no --{word.replace('_', '-')}")
    if given["limits"] != usual_limits():
        raise click.UsageError(f"the example '{name}' has no limits of its own")
    from mlcflow import examples

    chosen = [given["pipeline"]] if given["pipeline"] else examples.PIPELINES
    pipelines = [parse_pipeline(pipeline, given["target"], ()) for pipeline in chosen]
    dump_dir = Path(given["dump_dir"]) if given["dump_dir"] else None
    return examples.run(name, pipelines, say, quick=given["quick"], dump_dir=dump_dir)
