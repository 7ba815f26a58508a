"""Pipelines: named stages of steps, run one step at a time and recorded."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mlcflow import config, mlir
from mlcflow.announce import entering
from mlcflow.atomic import write_whole
from mlcflow.errors import LoweringError, MlcflowError, unknown_name
from mlcflow.failure import describe
from mlcflow.mlir import ir
from mlcflow.passes import Pass

log = logging.getLogger("mlcflow")

Step = Pass | Callable[[ir.Module], None]
"""An upstream pass, or a plain function that changes a module in place."""


def step_name(step: Step) -> str:
    """How the step is called in reports and errors: the pass text, or the function's name."""
    return str(step) if isinstance(step, Pass) else step.__name__


@dataclass(frozen=True, init=False)
class Stage:
    """A named group of steps that leaves a verified, printable and executable module."""

    name: str
    steps: tuple[Step, ...]

    def __init__(self, name: str, *steps: Step) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "steps", steps)


@dataclass(frozen=True)
class StageRecord:
    """What a stage did: the module it left, seconds (in all and a step), operation count."""

    name: str
    module: ir.Module
    seconds: float
    steps: tuple[tuple[str, float], ...]
    operations: int


class Stages(Mapping[str, ir.Module]):
    """The modules that the stages left, by stage name, in the order of the pipeline."""

    def __init__(self, records: tuple[StageRecord, ...]) -> None:
        self.records = records
        self._modules = {record.name: record.module for record in records}

    def __getitem__(self, name: str) -> ir.Module:
        if name not in self._modules:
            raise KeyError(unknown_name("stage", name, self._modules))
        return self._modules[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


@dataclass(frozen=True)
class Pipeline:
    """An ordered tuple of stages.

    ``opt_level`` is the level (0 to 3) at which LLVM turns the last module into machine code.
    ``arguments`` are the command-line words that build the pipeline again under its name, for
    reproducers; ``None`` if none do.
    """

    name: str
    stages: tuple[Stage, ...]
    opt_level: int = 3
    arguments: tuple[str, ...] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise MlcflowError(f"pipeline '{self.name}': two stages are called '{name}'")

    def check(self) -> None:
        """Raise ``LoweringError`` listing every pass or option that MLIR does not know."""
        problems = []
        with mlir.context():
            for stage in self.stages:
                for step in stage.steps:
                    if isinstance(step, Pass):
                        try:
                            step.manager()
                        except ValueError as error:
                            problems.append(f"stage '{stage.name}', {step}: {error}")
        if problems:
            raise LoweringError(f"pipeline '{self.name}':\n  " + "\n  ".join(problems))

    def select(self, start: str | None = None, until: str | None = None) -> tuple[Stage, ...]:
        """The stages from ``start`` to ``until``, both included."""
        names = [stage.name for stage in self.stages]
        for name in (start, until):
            if name is not None and name not in names:
                raise MlcflowError(unknown_name("stage", name, names, of=f"pipeline '{self.name}'"))
        first = names.index(start) if start else 0
        last = names.index(until) if until else len(names) - 1
        if names and last < first:
            raise MlcflowError(f"pipeline '{self.name}': stage '{until}' comes before '{start}'")
        return self.stages[first : last + 1]

    def run(
        self,
        module: ir.Module,
        *,
        start: str | None = None,
        until: str | None = None,
        keep: bool = True,
        on_stage: Callable[[StageRecord], None] | None = None,
    ) -> Stages:
        """Run the stages from ``start`` to ``until`` on ``module``, in place.

        ``keep`` stores a copy of the module after each stage. ``on_stage`` is called after
        each. Raises ``LoweringError`` that names stage, step, operation, source line and the
        command that shows the failure again.
        """
        settings = config.from_environment()
        records = []
        for number, stage in enumerate(self.select(start, until)):
            record = _run_stage(self, stage, module, keep, settings.debug)
            records.append(record)
            log.info("%-12s %8.1f ms  %6d operations", stage.name, record.seconds * 1e3,
                     record.operations)  # fmt: skip
            if settings.debug >= 3:
                log.info("%s", mlir.asm(module))
            if settings.dump_dir:
                write_module(settings.dump_dir / f"{number:02d}-{stage.name}.mlir", module)
            if on_stage:
                on_stage(record)
        return Stages(tuple(records))


def write_module(path: Path, module: ir.Module) -> None:
    """Write the module as text, at once or not at all; makes the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, mlir.asm(module, locations=True))


def _run_stage(
    pipeline: Pipeline, stage: Stage, module: ir.Module, keep: bool, debug: int
) -> StageRecord:
    before = mlir.clone(module)  # what a reproducer starts from
    begin = time.perf_counter()
    steps = []
    for step in stage.steps:
        name = step_name(step)
        step_begin = time.perf_counter()
        entering(stage.name, name, module)
        try:
            with module.context, ir.Location.unknown():
                step(module)
                module.operation.verify()
        except MemoryError:
            raise  # says nothing about the step
        except Exception as error:
            raise describe(error, pipeline, stage.name, name, before) from error
        steps.append((name, time.perf_counter() - step_begin))
        if debug >= 2:
            log.info("  %-60s %8.1f ms", name, steps[-1][1] * 1e3)
        if debug >= 4:
            log.info("%s", mlir.asm(module))
    return StageRecord(
        stage.name,
        mlir.clone(module) if keep else module,
        time.perf_counter() - begin,
        tuple(steps),
        sum(1 for _ in mlir.walk(module.operation)),
    )
