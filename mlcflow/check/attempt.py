"""One attempt at a failure: run a part of a pipeline on a program, and see what comes of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mlcflow import mlir
from mlcflow.check.agreement import worst_element
from mlcflow.check.apart import Outcome, Tell, run_apart
from mlcflow.check.inputs import make_arrays
from mlcflow.check.isolate import Limits
from mlcflow.check.program import Program, compare_results, ports_of
from mlcflow.check.trusted import call, in_float64, load_reference
from mlcflow.check.walk import run_steps
from mlcflow.check.widen import wide_array
from mlcflow.graph.interface import normalize_interface
from mlcflow.mlir import ir
from mlcflow.pipeline import Step

RUN = "run"
"""What is told before the code runs: what comes then is no failure of a step."""


@dataclass(frozen=True)
class Failure:
    """How a program fails: ``wrong``, ``failed``, ``crashed`` or ``hung``; while what; why.

    ``while_``: the number of a step, as text, or ``run``, when the code that it left runs.
    ``results`` are those that are wrong, ``inputs`` the kind of inputs they are wrong on.
    ``essence``: what a failure of another program must share to be the same.
    """

    kind: str
    while_: str
    message: str = ""
    results: tuple[str, ...] = ()
    inputs: str = ""
    essence: str = ""

    def is_like(self, other: Failure | None) -> bool:
        """Whether the other fails in the same way, at the same place."""
        if other is None or (self.kind, self.while_) != (other.kind, other.while_):
            return False
        return self.kind == "wrong" or self.essence == other.essence


def _essence(message: str) -> str:
    """The first line without numbers and names, which differ from program to program."""
    first = message.split("\n")[0]
    return re.sub(r"'[^']*'|\d+", "", first)


def attempt(program: Program, text: str, steps: Sequence[Step], limits: Limits) -> Failure | None:
    """Run ``steps`` on ``text``, what the program has become, then the code; ``None``: all well."""

    def run(tell: Tell) -> list:
        module = mlir.parse(text)
        _step_by_step(module, steps, tell)
        tell(RUN)
        executable = load_reference(module, program.parameters, 1)
        wrong: dict[str, list] = {}
        for number, kind in enumerate(program.kinds):
            found = compare_results(program, number, call(executable, program.sets[number]))
            for name, worst in zip(program.results, found, strict=True):
                if not worst.agrees:
                    wrong.setdefault(name, [kind, worst.ratio])
        return [[name, *about] for name, about in wrong.items()]

    return _failure(run_apart(run, program.within(limits)))


def attempt_alone(
    text: str, steps: Sequence[Step], kind: str, seed: int, limits: Limits, *, runs: bool = True
) -> Failure | None:
    """Run ``steps`` on a program that brings nothing along: its numbers are made up here.

    ``kind`` of inputs; without ``runs`` the code is not run. Everything happens in one process
    apart, which is what makes hundreds of attempts possible.
    """

    def run(tell: Tell) -> list:
        module = mlir.parse(text)
        with module.context, ir.Location.unknown():
            normalize_interface(module)
        expected = _expected(mlir.clone(module), kind, seed) if runs else None
        _step_by_step(module, steps, tell)
        if expected is None:
            return []
        tell(RUN)
        names, parameters, inputs, exact, trusted = expected
        results = call(load_reference(module, parameters, 0), inputs)
        worst = [worst_element(*each) for each in zip(results, exact, trusted, strict=True)]
        return [[n, kind, w.ratio] for n, w in zip(names, worst, strict=True) if not w.agrees]

    return _failure(run_apart(run, limits))


def _step_by_step(module: ir.Module, steps: Sequence[Step], tell: Tell) -> None:
    for number, step in enumerate(steps):
        tell(str(number))
        run_steps(module, [step])


def _expected(module: ir.Module, kind: str, seed: int) -> tuple:
    """The names of the results, parameters, inputs, results in float64 and as lowered."""
    inputs, needed, names = ports_of(module)
    arrays = make_arrays(inputs, kind, seed) or make_arrays(inputs, "random", seed)
    held = make_arrays(needed, "random", seed + 1)
    assert arrays is not None and held is not None
    parameters = {port.name: array for port, array in zip(needed, held, strict=True)}
    exact = in_float64(module, parameters, 0)(arrays)
    trusted = call(load_reference(module, parameters, 0), arrays)
    return names, parameters, arrays, exact, list(map(wide_array, trusted))


def _failure(outcome: Outcome) -> Failure | None:
    if outcome.kind != "done":
        essence = _essence(outcome.message)
        return Failure(outcome.kind, outcome.last, outcome.message, essence=essence)
    if not outcome.value:
        return None
    names = tuple(name for name, _, _ in outcome.value)
    name, kind, ratio = max(outcome.value, key=lambda row: row[2])
    return Failure("wrong", RUN, f"result {name} is {ratio:.3g} times its bound off", names, kind)
