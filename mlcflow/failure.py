"""From a failed step to an error that says where, why, and how to see it again."""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mlcflow import mlir
from mlcflow.announce import IMPORT, MACHINE_CODE, PARSE, PASS_PIPELINE
from mlcflow.errors import LoweringError, MlcflowError
from mlcflow.mlir import ir
from mlcflow.passes import Pass

if TYPE_CHECKING:
    from mlcflow.pipeline import Pipeline

_LINE = re.compile(r'"([^"]+)":(\d+):(\d+)')


def describe(
    error: Exception, pipeline: Pipeline, stage: str, step: str, before: ir.Module
) -> LoweringError:
    """The ``LoweringError`` for ``error``, raised by ``step`` of ``stage``.

    Writes ``before``, the module as the stage found it, to a new temporary directory.
    """
    diagnostics = list(getattr(error, "error_diagnostics", []))
    reason = str(error).split("\n  operation: ")[0]  # what follows is said below
    if not isinstance(error, ir.MLIRError | MlcflowError | ValueError):
        reason = f"{type(error).__name__}: {reason}"  # without it, many say little
    return LoweringError(
        f"pipeline '{pipeline.name}', stage '{stage}', step '{step}' failed"
        + ("" if diagnostics else f": {reason}"),
        stage=stage,
        step=step,
        op=_operation(diagnostics) or getattr(error, "op", ""),
        location=source_lines(str(d.location) for d in diagnostics)
        or getattr(error, "location", ""),
        diagnostics=tuple(dict.fromkeys(d.message for d in diagnostics)),
        reproducer=reproducer(pipeline, stage, step, _save(before, stage)),
    )


def reproducer(pipeline: Pipeline | None, stage: str, step: str, path: Path) -> str:
    """The command that runs ``stage``, of the pipeline or around it, again from the file.

    ``pipeline`` is ``None`` where there is none. One that only lives in this process has no
    name that a command could use: then its passes are spelled out, and where functions are
    among them there is just the file.
    """
    command = f"mlcflow opt {shlex.quote(str(path))}"
    if (stage, step) == (IMPORT, PARSE):
        return command
    if stage == IMPORT:
        return f"{command} --pass-pipeline={shlex.quote(f'builtin.module({step})')}"
    if stage == PASS_PIPELINE:
        return f"{command} --pass-pipeline={shlex.quote(step)}"
    if stage == MACHINE_CODE:
        return f"{command} --machine-code={pipeline.opt_level if pipeline else step.split()[-1]}"
    if pipeline is None:
        return f"{command}  # the module as it was before"
    if pipeline.arguments is not None:
        words = [f"--pipeline={pipeline.name}", f"--start={stage}", f"--until={stage}"]
        return " ".join([command, *map(shlex.quote, [*words, *pipeline.arguments])])
    steps = next(s.steps for s in pipeline.stages if s.name == stage)
    until = [str(s) for s in steps].index(step) if step in map(str, steps) else len(steps)
    if all(isinstance(s, Pass) for s in steps[: until + 1]):
        passes = ",".join(str(s) for s in steps[: until + 1])
        return f"{command} --pass-pipeline={shlex.quote(f'builtin.module({passes})')}"
    return f"{command}  # the module as the stage found it"


def source_lines(locations: Iterable[str]) -> str:
    """The distinct ``file:line`` that MLIR locations name, one each.

    A location of an imported model is a stack, innermost first: the first line outside the
    installed libraries is the user's own.
    """
    lines = []
    for location in locations:
        stack = [f"{match[1]}:{match[2]}" for match in _LINE.finditer(location)]
        own = [line for line in stack if "site-packages" not in line]
        lines += (own or stack)[:1]
    return ", ".join(dict.fromkeys(lines))


def _operation(diagnostics: list) -> str:
    """The first operation that a diagnostic's note shows, on one line."""
    for diagnostic in diagnostics:
        for note in diagnostic.notes:
            if note.message.startswith("see current operation: "):
                text = note.message.removeprefix("see current operation: ").split("\n")[0]
                return text if len(text) <= 300 else text[:300] + " ..."
    return ""


def _save(module: ir.Module, stage: str) -> Path:
    directory = Path(tempfile.mkdtemp(prefix="mlcflow-"))
    path = directory / f"before-{stage}.mlir"
    path.write_text(mlir.asm(module, locations=True), encoding="utf-8")
    return path
