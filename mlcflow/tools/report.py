"""``mlcflow report``: one page about a compiled model."""

from __future__ import annotations

from typing import Any

import click

from mlcflow.tools.options import (
    isolation_options,
    parse_pipeline,
    parse_target,
    pipeline_option,
    target_options,
)

_HELP = """Compile MODEL, look at it from all sides, and write one page.

\b
MODEL is FILE.py[:NAME] or FILE.mlir, as for `mlcflow run`, or a workload that
`mlcflow bench --list` names.

The page shows the graph of kernels, the stages of the pipeline with their IR side by side, the
time of each kernel beside what the machine can do, its schedule, the memory plan, and how far
the results are from float64. It needs no network and no other file.

\b
mlcflow report model.py -o report.html
mlcflow report bert-base-128 --threads=1
"""


@click.command(name="report", help=_HELP, short_help="Write a page about a compiled model.")
@click.argument("model")
@click.option("-o", "--output", default="report.html", show_default=True, metavar="FILE")
@pipeline_option(default="cpu")
@target_options
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Use at most N threads.")
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="How long calls are timed.",
)
@isolation_options
def command(model: str, output: str, **given: Any) -> None:
    """Write the page; the text of ``--help`` is above."""
    import mlcflow
    from mlcflow.report.page import gather
    from mlcflow.report.progress import working
    from mlcflow.report.step_sizes import watched
    from mlcflow.tools.checked_model import find_model
    from mlcflow.tools.model_file import make_inputs

    target = parse_target(given["target"])
    pipeline, sizes = watched(parse_pipeline(given["pipeline"], given["target"], given["options"]))
    source, args, kwargs = find_model(model)
    with working(f"{model}: compile") as doing:
        example = (args, kwargs) if _is_torch(source) else ((), {})
        executable = mlcflow.compile(
            source,
            *example[0],
            kwargs=example[1],
            pipeline=pipeline,
            verify=False,
            isolate=given["limits"] or False,
        )
        if given["threads"]:
            executable.threads = given["threads"]
        if not args and not kwargs:
            args = tuple(make_inputs(executable.inputs))
        page = gather(
            executable,
            args,
            kwargs,
            model=model,
            target=target,
            seconds=given["seconds"],
            steps=sizes,
            doing=lambda text: doing(f"{model}: {text}"),
        )
        doing(f"{model}: page")
        path = page.write(output)
    click.echo(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
    for name, why in page.missing.items():
        click.echo(f"without the {name}: {why}", err=True)
    if page.certificate is not None and not page.certificate.holds:
        click.echo("the results are NOT within the bounds of rounding", err=True)
        raise click.exceptions.Exit(1)


def _is_torch(source: Any) -> bool:
    from mlcflow.tools.model_file import states_shapes

    return not states_shapes(source)
