"""From a failed step to an error that says where, why, and how to see it again."""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mlcflow import mlir
from mlcflow.errors import LoweringError
from mlcflow.mlir import ir

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
    command = " ".join(
        ["mlcflow", "opt", shlex.quote(str(_save(before, stage))), f"--pipeline={pipeline.name}",
         f"--start={stage}", f"--until={stage}", *map(shlex.quote, pipeline.arguments)]
    )  # fmt: skip
    return LoweringError(
        f"pipeline '{pipeline.name}', stage '{stage}', step '{step}' failed"
        + ("" if diagnostics else f": {error}"),
        stage=stage,
        step=step,
        op=_operation(diagnostics),
        location=source_lines(str(d.location) for d in diagnostics),
        diagnostics=tuple(dict.fromkeys(d.message for d in diagnostics)),
        reproducer=command,
    )


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
    path.write_text(mlir.asm(module, locations=True))
    return path
