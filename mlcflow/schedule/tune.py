"""Random search with measurement: the best of so many programs that compute the right values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mlcflow.check.compare import compare
from mlcflow.errors import MlcflowError, ScheduleError
from mlcflow.graph.kernel import Kernel
from mlcflow.schedule.program import (
    isolate,
    load_program,
    measure,
    random_inputs,
    run_reference,
)
from mlcflow.schedule.sampling import Program, search_space
from mlcflow.schedule.schedule import Schedule
from mlcflow.target import Target


@dataclass(frozen=True)
class Trial:
    """One program that was tried: seconds a call, or why it was rejected."""

    decisions: tuple[int, ...]
    seconds: float
    rejected: str = ""


@dataclass(frozen=True)
class Tuned:
    """The fastest program that computed what the reference computes, and all trials."""

    best: Program
    seconds: float
    trials: tuple[Trial, ...]


def tune(
    kernel: Kernel,
    rule: Callable[[Kernel, Target], Schedule | None],
    *,
    trials: int = 64,
    seed: int = 0,
    target: Target | None = None,
    on_trial: Callable[[Trial], None] | None = None,
) -> Tuned:
    """Sample ``trials`` programs of a rule with choices, verify and time each, keep the best.

    Programs with the same decisions are tried once. Raises ``ScheduleError`` if none is right.
    """
    space = search_space(rule, kernel, target)
    reference = isolate(kernel)
    inputs = random_inputs(load_program(reference), seed)
    expected = run_reference(reference, inputs)
    done: dict[tuple[int, ...], Trial] = {}
    best: Program | None = None
    for number in range(trials):
        program, trial = _try(space.sample, seed + number, inputs, expected, done, target)
        if trial is None:
            continue
        if program is not None and trial.seconds < min(
            (other.seconds for other in done.values()), default=math.inf
        ):
            best = program
        done[trial.decisions or (-1 - number,)] = trial
        if on_trial:
            on_trial(trial)
    if best is None:
        reasons = {trial.rejected for trial in done.values()}
        raise ScheduleError(f"tune: no program of {trials} is right: {'; '.join(sorted(reasons))}")
    seconds = min(trial.seconds for trial in done.values())
    return Tuned(best, seconds, tuple(done.values()))


def _try(
    sample: Callable[[int], Program],
    seed: int,
    inputs: list,
    expected: list,
    done: dict[tuple[int, ...], Trial],
    target: Target | None,
) -> tuple[Program | None, Trial | None]:
    """Sample, verify and time one program; no trial if its decisions were tried before."""
    try:
        program = sample(seed)
    except ScheduleError as error:
        return None, Trial((), math.inf, str(error).split("\n")[0])
    if program.decisions in done:
        return None, None
    try:
        executable = load_program(program.module, target)
        results = executable(*inputs)
        compare(list(results) if isinstance(results, tuple) else [results], expected)
    except MlcflowError as error:
        return None, Trial(program.decisions, math.inf, str(error).split("\n")[0])
    return program, Trial(program.decisions, measure(executable, inputs))
