"""What a schedule did, as data: printed as Python, JSON or MLIR, and replayed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlcflow import mlir
from mlcflow.errors import ScheduleError
from mlcflow.mlir import func, ir
from mlcflow.schedule.emit import name_blocks
from mlcflow.schedule.interpret import Handle, apply, sequence
from mlcflow.schedule.labels import Loop

if TYPE_CHECKING:
    from mlcflow.schedule.schedule import Schedule

Build = Callable[[Handle], None]
"""Emits transform operations that apply to the function of the kernel."""


@dataclass
class Step:
    """One primitive with its arguments, which are JSON values; ``decision`` if it sampled."""

    primitive: str
    arguments: dict[str, Any]
    decision: Any = None
    builds: list[Build] = field(default_factory=list, repr=False)

    def __str__(self) -> str:
        words = [f"{key}={value!r}" for key, value in self.arguments.items()]
        if self.decision is not None:
            words.append(f"decision={self.decision!r}")
        return f"sch.{self.primitive}({', '.join(words)})"


class Trace(Sequence[Step]):
    """The steps of a schedule, in order. ``str(trace)`` is the Python that repeats them."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def __getitem__(self, index: Any) -> Any:
        return self.steps[index]

    def __len__(self) -> int:
        return len(self.steps)

    def __str__(self) -> str:
        return "\n".join(map(str, self.steps))

    def to_json(self) -> str:
        """The steps as JSON text."""
        return json.dumps([_plain(step) for step in self.steps], indent=2)

    def to_mlir(self, context: ir.Context | None = None) -> str:
        """The steps as one ``transform.named_sequence``, which ``mlcflow opt`` applies."""
        with context or mlir.context(), ir.Location.unknown():
            return mlir.asm(sequence(self._build))

    def _build(self, root: Handle) -> None:
        name_blocks(root)
        for step in self.steps:
            for build in step.builds:
                build(root)


def apply_to(function: func.FuncOp, step: Step, build: Build, kernel: str) -> None:
    """Apply what ``build`` emits as a part of ``step``. Raises ``ScheduleError``."""

    def named(root: Handle) -> None:
        build(root)
        name_blocks(root)

    try:
        apply(function, named)
        function.operation.verify()
    except (ScheduleError, ir.MLIRError) as error:
        raise ScheduleError(f"kernel '{kernel}': {step}: {error}") from error
    step.builds.append(named)


def _plain(step: Step) -> dict[str, Any]:
    plain: dict[str, Any] = {"primitive": step.primitive, "arguments": step.arguments}
    if step.decision is not None:
        plain["decision"] = step.decision
    return plain


def plain(value: Any) -> Any:
    """An argument of a primitive as a JSON value; loops become their names."""
    if isinstance(value, Loop):
        return str(value)
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ScheduleError(f"expected a loop, a name, a number or a list of them, got {value!r}")


def replay(trace: Trace | str | Sequence[Mapping[str, Any]], schedule: Schedule) -> Schedule:
    """Apply the steps of a trace, or of its JSON text, to another schedule.

    Raises ``ScheduleError`` where a step does not apply; steps before it have been applied.
    """
    if isinstance(trace, Trace):
        steps: Any = [_plain(step) for step in trace]
    else:
        steps = json.loads(trace) if isinstance(trace, str) else trace
    for number, step in enumerate(steps):
        name = step.get("primitive", "") if isinstance(step, Mapping) else ""
        if name not in schedule.PRIMITIVES:
            raise ScheduleError(f"step {number} of the trace: no primitive {name!r}")
        extra = {"decision": step["decision"]} if "decision" in step else {}
        try:
            getattr(schedule, name)(**step.get("arguments", {}), **extra)
        except TypeError as error:
            raise ScheduleError(f"step {number} of the trace: {name}: {error}") from error
    return schedule
