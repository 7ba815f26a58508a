"""``mlcflow opt``: MLIR in, MLIR out."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlcflow.atomic import write_whole
from mlcflow.errors import ImportModelError, MlcflowError, unknown_name
from mlcflow.tools.options import isolation_options, parse_pipeline, pipeline_option, target_options

if TYPE_CHECKING:
    from mlcflow.check.isolate import Limits
    from mlcflow.mlir import ir
    from mlcflow.pipeline import Pipeline

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
@click.option(
    "--machine-code", type=click.IntRange(0, 3), metavar="LEVEL", help="Let LLVM compile it, too."
)
@click.option("--split-input-file", is_flag=True, help="Treat each part between // ----- alone.")
@click.option("--locations", is_flag=True, help="Print the source location of each operation.")
@click.option("-o", "--output", metavar="FILE", help="Write here, at once or not at all.")
@isolation_options
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
    machine_code: int | None,
    limits: Limits | None,
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
    chosen = _pipeline(pipeline, start, until, target, options, pass_pipeline)
    work = _Work(
        chosen,
        _schedule(schedule, kernel) or _transform(chosen, start, until, pass_pipeline),
        machine_code,
        locations,
    )
    texts = _texts(file, split_input_file, lambda part: work.run(part, limits))
    text = "// -----\n".join(text for text in texts if text is not None)
    if output is None:
        click.echo(text, nl=False)
    elif None not in texts:
        write_whole(Path(output), text)
    if None in texts:
        raise click.exceptions.Exit(1)


def _texts(file: str, split: bool, run: Callable[[str | bytes | Path], str]) -> list[str | None]:
    """What ``run`` makes of each module. Of several, one that fails is told of and is ``None``."""
    name = "standard input" if file == "-" else file
    parts = _parts(file, split)
    texts: list[str | None] = []
    for number, part in enumerate(parts, 1):
        try:
            texts.append(run(part))
        except MlcflowError as error:
            if len(parts) == 1:
                raise
            texts.append(None)
            click.echo(f"error: {name}, part {number} of {len(parts)}: {error}", err=True)
    return texts


def _pipeline(
    pipeline: str | None,
    start: str | None,
    until: str | None,
    target: str,
    options: tuple[str, ...],
    pass_pipeline: str | None,
) -> Pipeline | None:
    """The pipeline of the command line, which has the stages that it names."""
    if pipeline is None:
        for option, value in (("--start", start), ("--until", until), ("--option", options)):
            if value:
                raise click.UsageError(f"{option} needs --pipeline")
        return None
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
    return chosen


def _transform(
    pipeline: Pipeline | None, start: str | None, until: str | None, pass_pipeline: str | None
) -> Callable[[ir.Module], object]:
    """What is to be done with each module, checked before any is read."""
    if pipeline is not None:
        return lambda module: pipeline.run(module, start=start, until=until, keep=False)
    return _pass_pipeline(pass_pipeline) if pass_pipeline else lambda module: None


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
        from mlcflow.announce import SCHEDULE, entering
        from mlcflow.schedule.apply import apply_schedule

        entering(SCHEDULE, file, module)
        apply_schedule(module, text, kernel)

    return run


def _pass_pipeline(text: str) -> Callable[[ir.Module], object]:
    from mlcflow import mlir
    from mlcflow.announce import PASS_PIPELINE, entering
    from mlcflow.errors import LoweringError
    from mlcflow.failure import source_lines

    with mlir.context():
        try:
            mlir.passmanager.PassManager.parse(text)
        except ValueError as error:
            raise click.UsageError(f"--pass-pipeline: {error}") from error

    def run(module: ir.Module) -> None:
        entering(PASS_PIPELINE, text, module)
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


@dataclass(frozen=True)
class _Work:
    """What the command does with each module."""

    pipeline: Pipeline | None
    transform: Callable[[ir.Module], object]
    machine_code: int | None
    locations: bool

    def run(self, source: str | bytes | Path, limits: Limits | None) -> str:
        """The text of the module of ``source``, transformed; in a worker process with limits."""
        if limits is None:
            return self._process(source)
        from mlcflow.isolated import text_isolated

        return text_isolated(lambda: self._process(source), limits, self.pipeline)

    def _process(self, source: str | bytes | Path) -> str:
        from mlcflow import mlir
        from mlcflow.frontends.mlir import read_mlir
        from mlcflow.runtime.machine_code import compile_object

        module = read_mlir(source)
        self.transform(module)
        text = mlir.asm(module, locations=self.locations).rstrip("\n") + "\n"
        if self.machine_code is not None:
            compile_object(module, self.machine_code)
        return text
