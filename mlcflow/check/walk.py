"""A pipeline run in a process apart, step by step, with the module after each kept as a file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from mlcflow import mlir
from mlcflow.check.apart import Outcome, Tell, run_apart
from mlcflow.check.isolate import Limits
from mlcflow.graph.interface import entry_points
from mlcflow.mlir import ir
from mlcflow.pipeline import Pipeline, Stage, StageRecord, Step, step_name


@dataclass(frozen=True)
class Walk:
    """How far a pipeline got: the file that each stage left, and where it broke off.

    ``stage`` and ``step`` (a number) say what was running when ``outcome`` came about.
    """

    outcome: Outcome
    files: dict[str, Path]
    stage: str = ""
    step: int = 0


def walk_stages(
    pipeline: Pipeline, text: str, folder: Path, limits: Limits, start: str | None = None
) -> Walk:
    """Run the stages of ``pipeline`` from ``start`` on the module ``text``."""
    stages = pipeline.select(start)
    files = {stage.name: folder / f"{n:02d}-{stage.name}.mlir" for n, stage in enumerate(stages)}

    def write(record: StageRecord) -> None:
        # Lines of the user as long as there are few operations: later there are many of each.
        text = mlir.asm(record.module, locations=is_on_tensors(record.module))
        files[record.name].write_text(text, encoding="utf-8")

    def run(tell: Tell) -> None:
        telling = replace(pipeline, stages=tuple(_telling(stage, tell) for stage in stages))
        telling.run(mlir.parse(text), keep=False, on_stage=write)

    outcome = run_apart(run, limits)
    done = {name: path for name, path in files.items() if path.exists()}
    if outcome.kind == "done":
        return Walk(outcome, done)
    stage, _, step = outcome.last.rpartition("/")
    return Walk(outcome, done, stage or stages[0].name, int(step or 0))


def _telling(stage: Stage, tell: Tell) -> Stage:
    """The stage with a word before each of its steps, so that a crash has an address."""
    steps: list[Step] = []
    for number, step in enumerate(stage.steps):
        steps += [_word(f"{stage.name}/{number}", tell), step]
    return Stage(stage.name, *steps)


def _word(text: str, tell: Tell) -> Step:
    def say_what_is_next(module: ir.Module) -> None:
        tell(text)

    return say_what_is_next


def is_on_tensors(module: ir.Module) -> bool:
    """Whether the entry point gives tensors: no stage has planned its memory yet."""
    return any(
        isinstance(kind, ir.RankedTensorType)
        for function in entry_points(module)
        for kind in function.type.results
    )


def run_steps(module: ir.Module, steps: Iterable[Step]) -> None:
    """Run steps outside a pipeline. Raises what they raise; verifies after each."""
    for step in steps:
        with module.context, ir.Location.unknown():
            step(module)
            module.operation.verify()


def name_of(pipeline: Pipeline, stage: str, step: int) -> str:
    """The name of a step by its number."""
    steps = pipeline.select(stage, stage)[0].steps
    return step_name(steps[step]) if step < len(steps) else ""
