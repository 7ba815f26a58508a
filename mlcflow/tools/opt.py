"""``mlcflow opt``: MLIR in, MLIR out."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlcflow.errors import ImportModelError, MlcflowError, unknown_name
from mlcflow.tools.options import parse_pipeline, pipeline_option, target_options

if TYPE_CHECKING:
    from mlcflow.mlir import ir

_SEPARATOR = re.compile(r"^// -----.*\n?", re.MULTILINE)


@click.command(name="opt")
@click.argument("file", default="-", metavar="[FILE]")
@pipeline_option(default=None)
@click.option("--until", metavar="STAGE", help="Stop after this stage of the pipeline.")
@click.option("--start", metavar="STAGE", help="Begin at this stage of the pipeline.")
@target_options
@click.option("--pass-pipeline", metavar="TEXT", help="MLIR's own: 'builtin.module(cse)'.")
@click.option("--schedule", metavar="FILE", help="Apply a trace: JSON, or a transform sequence.")
@click.option("--kernel", metavar="NAME", help="The kernel that --schedule is for.")
@click.option("--split-input-file", is_flag=True, help="Treat each part between // ----- alone.")
@click.option("--locations", is_flag=True, help="Print the source location of each operation.")
@click.option("-o", "--output", metavar="FILE", help="Write here, at once or not at all.")
def command(
    file: str,
    pipeline: str | None,
    until: str | None,
    start: str | None,
    target: str,
    options: tuple[str, ...],
    pass_pipeline: str | None,
    schedule: str | None,
    kernel: str | None,
    split_input_file: bool,
    locations: bool,
    output: str | None,
) -> None:
    """Read an MLIR module, run a pipeline on it, print the result.

    FILE is MLIR text or bytecode; without it, or with -, standard input is read. Without a
    pipeline the module is parsed, verified and printed.

    \b
    mlcflow opt model.mlir --pipeline=cpu --until=bufferize
    mlcflow opt edited.mlir --pipeline=cpu --start=bufferize
    mlcflow opt model.mlir --pass-pipeline='builtin.module(canonicalize,cse)'
    mlcflow opt kernels.mlir --schedule=schedule.mlir --kernel=linear_relu
    """
    if schedule is not None and (pipeline or pass_pipeline):
        raise click.UsageError("--schedule excludes --pipeline and --pass-pipeline")
    transform = _schedule(schedule, kernel) or _transform(
        pipeline, start, until, target, options, pass_pipeline
    )
    name = "standard input" if file == "-" else file
    parts = _parts(file, split_input_file)
    texts, failed = [], False
    for number, part in enumerate(parts, 1):
        label = name if len(parts) == 1 else f"{name}, part {number} of {len(parts)}"
        try:
            texts.append(_process(part, transform, locations))
        except MlcflowError as error:
            if len(parts) == 1:
                raise
            failed = True
            click.echo(f"error: {label}: {error}", err=True)
    text = "// -----\n".join(texts)
    if output is None:
        click.echo(text, nl=False)
    elif not failed:
        _write(Path(output), text)
    if failed:
        raise click.exceptions.Exit(1)


def _transform(
    pipeline: str | None,
    start: str | None,
    until: str | None,
    target: str,
    options: tuple[str, ...],
    pass_pipeline: str | None,
) -> Callable[[ir.Module], object]:
    """What the command line asks to be done with each module, checked before any is read."""
    if pipeline is None:
        for option, value in (("--start", start), ("--until", until), ("--option", options)):
            if value:
                raise click.UsageError(f"{option} needs --pipeline")
        return _pass_pipeline(pass_pipeline) if pass_pipeline else lambda module: None
    if pass_pipeline:
        raise click.UsageError("--pipeline and --pass-pipeline exclude each other")
    chosen = parse_pipeline(pipeline, target, options)
    names = [stage.name for stage in chosen.stages]
    for name in (start, until):
        if name is not None and name not in names:
            raise click.UsageError(unknown_name("stage", name, names, of=f"pipeline '{pipeline}'"))
    try:
        chosen.select(start, until)
    except MlcflowError as error:
        raise click.UsageError(str(error)) from error
    return lambda module: chosen.run(module, start=start, until=until, keep=False)


def _schedule(file: str | None, kernel: str | None) -> Callable[[ir.Module], object] | None:
    """The schedule of a file, as a change of a module; ``None`` if none is asked for."""
    if file is None:
        if kernel is not None:
            raise click.UsageError("--kernel needs --schedule")
        return None
    path = Path(file)
    if not path.is_file():
        raise click.UsageError(f"--schedule: no file '{file}'")
    text = path.read_text()

    def run(module: ir.Module) -> None:
        from mlcflow.schedule.apply import apply_schedule

        apply_schedule(module, text, kernel)

    return run


def _pass_pipeline(text: str) -> Callable[[ir.Module], object]:
    from mlcflow import mlir
    from mlcflow.errors import LoweringError
    from mlcflow.failure import source_lines

    with mlir.context():
        try:
            mlir.passmanager.PassManager.parse(text)
        except ValueError as error:
            raise click.UsageError(f"--pass-pipeline: {error}") from error

    def run(module: ir.Module) -> None:
        with module.context:
            try:
                mlir.passmanager.PassManager.parse(text).run(module.operation)
            except mlir.ir.MLIRError as error:
                diagnostics = error.error_diagnostics
                raise LoweringError(
                    f"--pass-pipeline '{text}' failed",
                    location=source_lines(str(d.location) for d in diagnostics),
                    diagnostics=tuple(dict.fromkeys(d.message for d in diagnostics)),
                ) from error

    return run


def _parts(file: str, split: bool) -> list[str | bytes | Path]:
    """The modules to read. Each part is padded, so that it keeps its line numbers."""
    if file != "-":
        path = Path(file)
        if not path.is_file():
            raise click.UsageError(f"no file '{file}'")
        if not split:
            return [path]
        data = path.read_bytes()
    else:
        data = sys.stdin.buffer.read()
    if not split:
        return [data]
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ImportModelError(f"{file}: --split-input-file needs text, not bytecode") from error
    bounds = [0, *(m.end() for m in _SEPARATOR.finditer(text))]
    ends = [*(m.start() for m in _SEPARATOR.finditer(text)), len(text)]
    return [
        "\n" * text.count("\n", 0, begin) + text[begin:end]
        for begin, end in zip(bounds, ends, strict=True)
    ]


def _process(
    source: str | bytes | Path, transform: Callable[[ir.Module], object], locations: bool
) -> str:
    from mlcflow import mlir
    from mlcflow.frontends.mlir import import_mlir

    module = import_mlir(source).module
    transform(module)
    return mlir.asm(module, locations=locations).rstrip("\n") + "\n"


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)
