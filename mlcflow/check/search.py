"""The search for where a pipeline goes wrong: halving stages, then steps, then kernels."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mlcflow import mlir
from mlcflow.check.apart import Tell, run_apart
from mlcflow.check.attempt import RUN, Failure, attempt, attempt_alone
from mlcflow.check.extract import operations
from mlcflow.check.harness import harness_text
from mlcflow.check.isolate import Limits
from mlcflow.check.program import Program
from mlcflow.check.reduce import readable, reduce_program
from mlcflow.check.stages import kernel_program
from mlcflow.check.walk import Walk, run_steps, walk_stages
from mlcflow.failure import source_lines
from mlcflow.graph.outline import kernels
from mlcflow.passes import Pass
from mlcflow.pipeline import Pipeline, Step, step_name

Say = Callable[[str], None]
"""Takes a line about how the search goes."""
LINES = 5
"""How many source lines are named."""
PATIENCE = 0.1
"""The part of that time after which a part of a program is taken to hang as all of it does."""


@dataclass(frozen=True)
class Place:
    """Where a program fails: a stage, and the steps of it that may be to blame, by number."""

    program: Program
    stage: str
    numbers: range
    names: tuple[str, ...]
    failure: Failure


@dataclass(frozen=True)
class Reduced:
    """A program, the stage that it starts from, how many were tried, lines of the user's."""

    text: str
    start: str | None
    tried: int
    lines: str

    @staticmethod
    def of(
        text: str, start: str | None, tried: int, fails: Callable[[str], bool] = lambda text: True
    ) -> Reduced:
        """The program as one reads it, if it still fails then."""
        plain = (readable(text, roles=False), readable(text))
        shown = next((each for each in plain if fails(each)), text)
        return Reduced(shown, start, tried, _lines(text))


class Search:
    """A search on a pipeline, with what it has found so far; ``folder`` takes its files."""

    def __init__(
        self, pipeline: Pipeline, folder: Path, seed: int, limits: Limits, say: Say
    ) -> None:
        self.pipeline, self.folder = pipeline, folder
        self.seed, self.limits, self.say = seed, limits, say
        self.walk: Walk | None = None  # of the whole model
        self._kernels: dict[str, Program | None] = {}

    def place(self, program: Program) -> Place | None:
        """The stage and the steps after which the program is wrong; ``None`` if it never is."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        walk = walk_stages(self.pipeline, program.text, folder, self.limits, program.start)
        self.walk = self.walk or walk
        names = list(walk.files)
        texts = [program.text, *(path.read_text(encoding="utf-8") for path in walk.files.values())]

        def at_stage(number: int) -> Failure | None:
            failure = attempt(program, texts[number], [], self.limits)
            shown = failure.kind if failure else "agrees"
            self.say(f"  after {names[number - 1] if number else 'the import'}: {shown}")
            return failure

        bad = _first(at_stage, 0, len(names))
        if bad is None:
            return self._broken_off(program, walk, texts) if walk.outcome.kind != "done" else None
        number, failure = bad
        if number.stop == 1:  # before any stage: there is nothing to search in
            return Place(program, "import", range(0), (), failure)
        stage = names[number.stop - 2]
        return self._step(program, stage, texts[number.stop - 2], failure)

    def _broken_off(self, program: Program, walk: Walk, texts: list[str]) -> Place | None:
        """The step that was running when the pipeline ended, if it ends there again."""
        steps = self._steps(walk.stage, walk.stage)[: walk.step + 1]
        failure = attempt(program, texts[-1], steps, self.limits)
        if failure is None:
            return None
        message = walk.outcome.message if failure.kind == walk.outcome.kind else failure.message
        numbers = range(walk.step, walk.step + 1)
        names = tuple(step_name(steps[number]) for number in numbers)
        return Place(program, walk.stage, numbers, names, replace(failure, message=message))

    def _step(self, program: Program, stage: str, before: str, failure: Failure) -> Place:
        steps = self._steps(stage, stage)

        def after_steps(number: int) -> Failure | None:
            return attempt(program, before, steps[:number], self.limits)

        found = _first(after_steps, 1, len(steps), known=failure)
        numbers, failure = found if found else (range(len(steps)), failure)
        numbers = range(numbers.start - 1, numbers.stop - 1) if found else numbers
        names = tuple(step_name(steps[number]) for number in numbers)
        return Place(program, stage, numbers, names, failure)

    def _steps(self, start: str | None, until: str) -> list[Step]:
        return [step for stage in self.pipeline.select(start, until) for step in stage.steps]

    def _until(self, start: str | None, place: Place) -> list[Step]:
        """The steps from a stage to the place."""
        before = len(self._steps(start, place.stage)) - len(self._steps(place.stage, place.stage))
        return self._steps(start, place.stage)[: before + place.numbers.stop]

    def _expected(self, start: str | None, place: Place) -> Failure:
        """The failure as it looks when the steps are counted from ``start``."""
        if place.failure.while_ == RUN:
            return place.failure
        return replace(place.failure, while_=str(len(self._until(start, place)) - 1))

    def kernels(self, until: int) -> Program | None:
        """The kernels of the model, each called once; ``None`` if stage ``until`` has none yet."""
        assert self.walk is not None
        stages = [stage.name for stage in self.pipeline.stages]
        for number, (name, path) in enumerate(self.walk.files.items()):
            if number < until and number + 1 < len(stages):
                if name not in self._kernels:
                    start = stages[number + 1]
                    self._kernels[name] = kernel_program(path, start, self.seed, self.limits)
                if self._kernels[name] is not None:
                    return self._kernels[name]
        return None

    def _limits(self, failure: Failure) -> Limits:
        """Those of an attempt on a part: each that still hangs takes all of the time."""
        if failure.kind != "hung":
            return self.limits
        return replace(self.limits, seconds=max(1.0, PATIENCE * self.limits.seconds))

    def kernel(self, place: Place) -> str:
        """The one kernel that shows the failure by itself; empty if none does."""
        stages = [stage.name for stage in self.pipeline.stages]
        if place.stage not in stages:
            return ""
        program = self.kernels(stages.index(place.stage))
        if program is None:
            return ""
        steps = self._until(program.start, place)
        expected = self._expected(program.start, place)
        names = list(dict.fromkeys(name.rpartition(".")[0] for name in program.results))
        if place.failure.kind == "wrong":
            found = attempt(program, program.text, steps, self.limits)
            return found.results[0].rpartition(".")[0] if expected.is_like(found) and found else ""
        return self._halve(program, names, steps, expected)

    def _halve(
        self, program: Program, names: list[str], steps: list[Step], expected: Failure
    ) -> str:
        """The kernel among ``names`` with which the compiler or the code ends."""

        def fails(some: list[str]) -> bool:
            text = harness_text(program.text, some)
            runs = expected.while_ == RUN
            limits = self._limits(expected)
            found = attempt_alone(text, steps, "random", self.seed, limits, runs=runs)
            return expected.is_like(found)

        while len(names) > 1:
            half = names[: len(names) // 2]
            names = half if fails(half) else names[len(names) // 2 :]
        return names[0] if fails(names) else ""

    def reduce(self, place: Place, kernel: str, seconds: float) -> Reduced:
        """The least program that fails in the same way."""
        if place.stage == "import":
            return Reduced.of(place.program.text, None, 0)
        runs = place.failure.while_ == RUN
        kind = place.failure.inputs or "random"
        kind = "random" if kind == "example" else kind
        limits = self._limits(place.failure)
        for text, start in self._candidates(place, kernel):
            steps, expected = self._until(start, place), self._expected(start, place)

            def fails(some: str, steps: list[Step] = steps, expected: Failure = expected) -> bool:
                found = attempt_alone(some, steps, kind, self.seed, limits, runs=runs)
                return expected.is_like(found)

            if fails(text):
                reduced, tried = reduce_program(text, fails, seconds)
                return Reduced.of(reduced, start, tried, fails)
        return Reduced.of(place.program.text, place.program.start, 0)

    def only_kernel(self, text: str, start: str | None, place: Place) -> str:
        """The kernel that the program becomes, if it becomes one; else empty."""
        if place.failure.while_ != RUN or place.stage == "import":
            return ""

        def run(tell: Tell) -> list[str]:
            module = mlir.parse(text)
            run_steps(module, self._until(start, place))
            return [function.name.value for function in kernels(module)]

        outcome = run_apart(run, self.limits)
        return outcome.value[0] if outcome.kind == "done" and len(outcome.value) == 1 else ""

    def _candidates(self, place: Place, kernel: str) -> list[tuple[str, str | None]]:
        """Programs to begin with, the best first: the kernel in line, as kernel, the model."""
        found: list[tuple[str, str | None]] = []
        program = place.program
        if kernel:
            stages = [stage.name for stage in self.pipeline.stages]
            program_of_all = self.kernels(stages.index(place.stage))
            assert program_of_all is not None
            single = harness_text(program_of_all.text, [kernel])
            inlined = run_apart(lambda tell: _inline(single), self.limits)
            if inlined.kind == "done":
                found.append((inlined.value, None))
            found.append((single, program_of_all.start))
        return [*found, (program.text, program.start)]


def _lines(text: str) -> str:
    """Where the user wrote what the operations of a program come from, the first few places."""
    found = source_lines(str(op.location) for op in operations(mlir.parse(text)))
    lines = found.split(", ") if found else []
    return ", ".join(lines[:LINES] + ["..."] * (len(lines) > LINES))


def _inline(text: str) -> str:
    module = mlir.parse(text)
    with module.context:
        for name in ("inline", "symbol-dce"):
            Pass(name)(module)
    return mlir.asm(module, locations=True)


def _first(
    test: Callable[[int], Failure | None], low: int, high: int, known: Failure | None = None
) -> tuple[range, Failure] | None:
    """The numbers between the last one that is well and the first that fails, and its failure.

    ``known``: how ``high`` fails, if that is known. A number of which the test cannot tell
    (the module is not executable there) is passed over.
    """
    failure = known or test(high)
    while high > low and failure is not None and failure.kind == "failed" and known is None:
        high -= 1
        failure = test(high)
    if failure is None:
        return None
    good = low - 1
    unknown: set[int] = set()
    while open_ := [n for n in range(good + 1, high) if n not in unknown]:
        middle = open_[len(open_) // 2]
        found = test(middle)
        if found is None:
            good = middle
        elif found.kind == "failed" and failure.kind != "failed":
            unknown.add(middle)
        else:
            high, failure = middle, found
    return range(good + 1, high + 1), failure
