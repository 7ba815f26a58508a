"""Schedules with open choices: what a space holds, and the search through it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

import pytest
from schedule_programs import linear_relu, reduction

from mlcflow import mlir
from mlcflow.errors import ScheduleError
from mlcflow.graph.kernel import Kernel
from mlcflow.mlir import arith, ir, walk
from mlcflow.schedule.sampling import search_space
from mlcflow.schedule.schedule import Schedule
from mlcflow.schedule.trace import replay
from mlcflow.schedule.tune import tune
from mlcflow.target import Target

PROGRAM = linear_relu(8, 16, 12)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    module = mlir.parse(PROGRAM.text)  # must outlive its kernel
    yield Schedule(module).kernel


def rule(given: Kernel, target: Target) -> Schedule:
    """4 ways to split i, the last up to 8; 2 orders; k by 2, 3, 5 (which does not divide)."""
    schedule = Schedule(given)
    tile = schedule.sample_perfect_tile("final.i", 2, innermost=8)
    order = schedule.sample_categorical([[0, 1], [1, 0]])
    k = schedule.sample_categorical([2, 3, 5])
    schedule.tile_and_fuse("final", [tile[-1], 8], order=order)
    schedule.split("root.k", [None, k])
    schedule.vectorize()
    schedule.hoist()
    return schedule


def test_a_space_holds_every_program_once(kernel: Kernel) -> None:
    programs = list(search_space(rule, kernel))
    assert len({program.decisions for program in programs}) == len(programs) == 4 * 2 * 2
    assert all(program.decisions[-1] != 2 for program in programs)
    # A tile of the whole of i leaves one loop, whose order does not matter.
    assert len({str(program.module) for program in programs}) == 4 * 2 * 2 - 2


def test_every_program_of_a_space_is_right(kernel: Kernel) -> None:
    for program in islice(search_space(rule, kernel), 0, None, 3):
        PROGRAM.check(program.module, vectors=True)


def test_one_seed_gives_one_program(kernel: Kernel) -> None:
    def simple(given: Kernel, target: Target) -> Schedule:
        schedule = Schedule(given)
        schedule.split("root.i", [None, schedule.sample_categorical([1, 2, 4])])
        schedule.split("root.j", [*schedule.sample_perfect_tile("root.j", 3)[:2], None])
        return schedule

    space = search_space(simple, kernel)
    first, again = space.sample(7), space.sample(7)
    assert (first.decisions, str(first.module)) == (again.decisions, str(again.module))
    assert len({space.sample(seed).decisions for seed in range(12)}) > 3
    fresh = mlir.parse(PROGRAM.text)
    replay(first.schedule.trace.to_json(), Schedule(fresh))
    assert str(fresh) == str(first.module)


def test_a_rule_that_does_not_apply(kernel: Kernel) -> None:
    space = search_space(lambda given, target: None, kernel)
    assert list(space) == []
    with pytest.raises(ScheduleError, match="the rule does not apply to kernel 'main'"):
        space.sample(0)


def wrong(given: Kernel, target: Target) -> Schedule:
    """Takes the minimum instead of the maximum, if so decided."""
    schedule = Schedule(given)
    if schedule.sample_categorical([False, True]):
        maximum = next(op for op in walk(given.function) if isinstance(op, arith.MaximumFOp))
        with ir.InsertionPoint(maximum), maximum.location:
            minimum = arith.minimumf(*maximum.operands)
        maximum.result.replace_all_uses_with(minimum)
        maximum.operation.erase()
    schedule.split("root.i", [None, 2])
    return schedule


def test_tune_keeps_the_fastest_right_program(kernel: Kernel) -> None:
    seen = []
    found = tune(kernel, wrong, trials=8, on_trial=seen.append)
    assert found.trials == tuple(seen) and len(seen) == 2
    good, bad = sorted(seen, key=lambda trial: trial.decisions)
    assert (
        (found.best.decisions, found.seconds)
        == (good.decisions, good.seconds)
        == (
            (0,),
            good.seconds,
        )
    )
    assert 0 < good.seconds < math.inf and not good.rejected
    assert bad.seconds == math.inf and "differ" in bad.rejected
    PROGRAM.check(found.best.module)


def test_tune_without_a_right_program(kernel: Kernel) -> None:
    with pytest.raises(ScheduleError, match="tune: no program of 3 is right: .*7 does not divide"):
        tune(kernel, _never, trials=3)


def _never(given: Kernel, target: Target) -> Schedule:
    schedule = Schedule(given)
    schedule.split("root.i", [None, 7])
    return schedule


def test_a_kernel_of_a_reduction_is_tuned_too() -> None:
    program = reduction(8, 64, "exp")

    def lanes(given: Kernel, target: Target) -> Schedule:
        schedule = Schedule(given)
        schedule.tile_and_fuse("final", [1])
        schedule.rfactor("root.j", schedule.sample_categorical([8, 16]))
        schedule.drop_unit_loops()
        schedule.vectorize()
        schedule.hoist()
        return schedule

    module = mlir.parse(program.text)
    found = tune(Schedule(module).kernel, lanes, trials=4)
    assert len(found.trials) == 2 and not any(trial.rejected for trial in found.trials)
    program.check(found.best.module, vectors=True)
