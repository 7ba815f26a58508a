"""Applying a schedule that was written down: the JSON or the MLIR of a trace."""

from __future__ import annotations

import json

from mlcflow import mlir
from mlcflow.errors import ScheduleError
from mlcflow.mlir import ir, transform
from mlcflow.schedule.interpret import apply_script
from mlcflow.schedule.schedule import Schedule
from mlcflow.schedule.trace import replay

ENTRY = "__transform_main"


def apply_schedule(module: ir.Module, text: str, kernel: str | None = None) -> None:
    """Apply ``text`` to one kernel of ``module``, as ``mlcflow.Schedule`` finds it.

    ``text`` is what ``trace.to_json()`` gives, or a module with a ``transform.named_sequence``
    called ``@__transform_main``, as ``trace.to_mlir()`` gives; JSON begins with ``[``. Raises
    ``ScheduleError`` for a text that is neither, and where a step does not apply.
    """
    schedule = Schedule(module, kernel)
    if text.lstrip().startswith("["):
        replay(_steps(text), schedule)
        return
    script = _parse(text, module.context)
    sequences = [op for op in script.body.operations if isinstance(op, transform.NamedSequenceOp)]
    names = [op.sym_name.value for op in sequences]
    if ENTRY not in names:
        raise ScheduleError(
            f"expected a transform.named_sequence @{ENTRY}, found {', '.join(names) or 'none'}"
        )
    apply_script(schedule.function, script, sequences[names.index(ENTRY)])


def _steps(text: str) -> list:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ScheduleError(f"this is not the JSON of a trace: {error}") from error


def _parse(text: str, context: ir.Context) -> ir.Module:
    try:
        return mlir.parse(text, context)
    except ir.MLIRError as error:
        messages = "; ".join(f"{d.location}: {d.message}" for d in error.error_diagnostics)
        raise ScheduleError(f"this is not a valid MLIR module: {messages}") from error
