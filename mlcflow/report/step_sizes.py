"""What each step of a pipeline did to the number of operations."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace

from mlcflow import mlir
from mlcflow.mlir import ir
from mlcflow.pipeline import Pipeline, Stage, Stages, Step, step_name


@dataclass(frozen=True)
class StepSize:
    """A step of a stage: seconds, and the operations that it left (``None``: not counted)."""

    stage: str
    name: str
    seconds: float
    operations: int | None


class StepSizes:
    """The sizes so far, in order: those of steps that ran in a worker process, too."""

    def __init__(self) -> None:
        # A worker has a copy of what is in memory; a file is one and the same.
        self._file = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115

    def add(self, size: StepSize) -> None:
        """One more."""
        self._file.write(json.dumps(astuple(size)) + "\n")
        self._file.flush()

    def __iter__(self) -> Iterator[StepSize]:
        self._file.seek(0)
        return iter([StepSize(*json.loads(line)) for line in self._file])


def watched(pipeline: Pipeline) -> tuple[Pipeline, StepSizes]:
    """The same pipeline, and what fills with what each step does when it runs.

    Counting operations takes longer than some steps, so their times are those of
    ``StageRecord``; see :func:`mlcflow.report.page.gather`.
    """
    sizes = StepSizes()

    def watch(stage: str, step: Step) -> Step:
        name = step_name(step)

        def run(module: ir.Module) -> None:
            begin = time.perf_counter()
            step(module)
            seconds = time.perf_counter() - begin
            count = sum(1 for _ in mlir.walk(module.operation))
            sizes.add(StepSize(stage, name, seconds, count))

        run.__name__ = name
        return run

    stages = [
        Stage(stage.name, *(watch(stage.name, step) for step in stage.steps))
        for stage in pipeline.stages
    ]
    return replace(pipeline, stages=tuple(stages)), sizes


def of_records(stages: Stages) -> list[StepSize]:
    """What the records of stages know: the time of each step, the operations after the last."""
    return [
        StepSize(record.name, name, took, record.operations if last else None)
        for record in stages.records
        for number, (name, took) in enumerate(record.steps, 1)
        for last in [number == len(record.steps)]
    ]
