"""``mlcflow verify``: is what each stage of a pipeline leaves still the model?"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mlcflow.tools.options import json_option, parse_pipeline, pipeline_option, target_options

if TYPE_CHECKING:
    from mlcflow.check.isolate import Limits
    from mlcflow.check.stages import Finding, Row


def limit_options(*, seconds: float) -> Callable[[Any], Any]:
    """``--seconds``, ``--memory`` and ``--seed``, which ``verify`` and ``bisect`` share."""

    def add(function: Any) -> Any:
        for option in (
            click.option("--seed", default=0, show_default=True, help="Of the numbers made up."),
            click.option("--memory", type=float, metavar="GIB", help="What a run may take."),
            click.option(
                "--seconds", default=seconds, show_default=True, help="What a run may take."
            ),
        ):
            function = option(function)
        return function

    return add


def read_limits(seconds: float, memory: float | None) -> Limits:
    """The limits of the command line."""
    from mlcflow.check.isolate import Limits

    return Limits(seconds, None if memory is None else int(memory * 2**30))


@click.command(name="verify")
@click.argument("model")
@pipeline_option(default="cpu")
@target_options
@limit_options(seconds=600.0)
@json_option
def command(
    model: str,
    pipeline: str,
    target: str,
    options: tuple[str, ...],
    seed: int,
    memory: float | None,
    seconds: float,
    as_json: bool,
) -> None:
    """Run the module of every stage of a pipeline, and compare it with float64.

    MODEL is as in `mlcflow run`. It is run on its own inputs and on made-up ones: random,
    zeros, negative, tiny and huge numbers, and with NaN and infinities among them. Each kernel
    is also run by itself, on such inputs of its own; equal kernels once.

    A row a stage: the error of the worst element over its bound (1 is the limit), of the model
    and of the worst kernel. `same` is a stage that changed nothing. Exits with 1 if a stage is
    wrong; `mlcflow bisect` then tells which step and which kernel.

    \b
    mlcflow verify model.py
    mlcflow verify model.mlir --pipeline=reference --json
    """
    from mlcflow.check.stages import verify_stages
    from mlcflow.tools.checked_model import load_checked

    chosen = parse_pipeline(pipeline, target, options)
    imported, inputs = load_checked(model)
    if not as_json:
        click.echo(f"{model}: pipeline '{chosen.name}', each stage by the reference lowering")
        click.echo(f"{'stage':<12s} {'':8s} {'model':>9s}  {'kernels':>9s}   worst")
    rows = verify_stages(
        imported,
        chosen,
        inputs=inputs,
        seed=seed,
        limits=read_limits(seconds, memory),
        on_row=None if as_json else lambda row: click.echo(_line(row)),
    )
    bad = [row for row in rows if row.status not in ("ok", "same")]
    if as_json:
        data = {"model": model, "pipeline": chosen.name, "ok": not bad}
        click.echo(json.dumps(data | {"stages": [asdict(row) for row in rows]}, indent=2))
    elif bad:
        click.echo(f"stage '{bad[0].stage}' is {bad[0].status}; `mlcflow bisect` finds where")
    else:
        click.echo(f"every stage computes the model: {len(rows)} checked, none off its bound")
    if bad:
        raise click.exceptions.Exit(1)


def _line(row: Row) -> str:
    cells = f"{row.stage:<12s} {row.status:8s} {_ratio(row.model)}  {_ratio(row.kernels)}"
    if row.message:
        return f"{cells}   {row.message}"
    found = [finding for finding in (row.model, row.kernels) if finding]
    worst = max(found, key=lambda finding: finding.worst.ratio, default=None)
    skipped = f"; {row.skipped} elements overflow" if row.skipped else ""
    return cells if worst is None else f"{cells}   {describe_finding(worst)}{skipped}"


def _ratio(finding: Finding | None) -> str:
    return f"{'-':>9s}" if finding is None else f"{finding.worst.ratio:9.3g}"


def describe_finding(finding: Finding) -> str:
    """The worst element in words."""
    worst = finding.worst
    place = ", ".join(map(str, worst.place))
    return (
        f"result {finding.result}[{place}] on {finding.kind} inputs: "
        f"{worst.actual:.7g}, in float64 {worst.exact:.7g}"
    )
