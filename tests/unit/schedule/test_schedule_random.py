"""Whatever schedule is accepted computes what numpy does; what is refused changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from schedule_programs import (
    Program,
    batch_matmul,
    convolution,
    elementwise,
    linear_relu,
    matmul,
    reduction,
    rows,
)

from mlcflow import mlir
from mlcflow.errors import ScheduleError
from mlcflow.schedule.apply import apply_schedule
from mlcflow.schedule.schedule import Schedule

CASES = 60
"""Schedules of each kind of program, 420 in all, at about 50 ms each."""

PROGRAMS: dict[str, Callable[[Callable], Program]] = {
    "matmul": lambda d: matmul(d(4, 6, 7), d(8, 5, 6), d(6, 9, 4)),
    "linear_relu": lambda d: linear_relu(d(4, 6, 8), d(8, 5, 12), d(6, 9, 4)),
    "batch_matmul": lambda d: batch_matmul(2, d(3, 4), d(4, 6), d(5, 4)),
    "convolution": lambda d: convolution(d(4, 3), d(2, 3), d(2, 3), d(2, 4)),
    "reduction": lambda d: reduction(d(4, 6, 5), d(8, 9, 6), d("sum", "max", "exp")),
    "elementwise": lambda d: elementwise(d(4, 6, 5), d(8, 9, 6)),
    "rows": lambda d: rows(d(4, 6), d(8, 5)),
}
FACTORS = [[None, 2], [None, 3], [2, None], [None, 2, 2], [3, None, 1], [None, 1]]
LIKELY = ["split"] * 7 + ["tile", "reorder", "fuse"] * 3 + ["tile_and_fuse", "peel"] * 2
LIKELY += ["compute_at", "reverse_compute_at", "cache_read", "decompose_reduction"] * 3
RARE = ["vectorize", "tensorize"]
"""Nothing is left to schedule afterwards, so these come last."""

ELSEWHERE = ["rolling_update"]
"""Refuses all of these programs; see test_schedule_rolling."""


@dataclass
class Draw:
    """Draws the arguments of one primitive for the state that a schedule is in."""

    schedule: Schedule
    data: st.DataObject
    block: str = field(init=False)

    def __post_init__(self) -> None:
        self.block = self.one(self.schedule.blocks())

    def one(self, options: Sequence[Any]) -> Any:
        return self.data.draw(st.sampled_from(list(options)))

    def loop(self, *, around: bool = False) -> str:
        """A loop of the block; of any block, if it must be around one and there is one."""
        names = self.schedule.blocks() if around else [self.block]
        found = [loop for name in names for loop in self.schedule.loops(name)]
        outer = [loop for loop in found if loop.op is not None]
        return str(self.one(outer if around and outer else found))

    def depth(self) -> int:
        return sum(loop.op is None for loop in self.schedule.loops(self.block))

    def sizes(self, *options: int) -> list[int]:
        return [self.one(options) for _ in range(self.depth())]

    def permutation(self) -> list[int]:
        return self.data.draw(st.permutations(range(self.depth())))

    def arguments(self, primitive: str) -> tuple[list, dict[str, Any]]:
        loops = [str(loop) for loop in self.schedule.loops(self.block)]
        first = self.one(range(max(1, len(loops) - 1)))
        makers: dict[str, Callable[[], list]] = {
            "split": lambda: [self.loop(), self.one(FACTORS)],
            "tile": lambda: [self.block, self.sizes(0, 0, 1, 2, 3)],
            "tile_and_fuse": lambda: [self.block, self.sizes(0, 0, 1, 2, 4, 5)],
            "pack": lambda: [self.block, self.sizes(0, 2, 3)],
            "pad": lambda: [self.block, self.sizes(1, 2, 4)],
            "reorder": lambda: self.data.draw(st.permutations(loops))[: self.one([2, 3, 4])],
            "interchange": lambda: [self.block, self.permutation()],
            "fuse": lambda: loops[first : first + 2] if len(loops) > 1 else [loops[0], loops[0]],
            "unroll": lambda: [self.loop(), self.one([None, 2, 3])],
            "peel": lambda: [self.loop(around=True)],
            "parallel": lambda: [self.loop()],
            "bind": lambda: [self.loop(), self.one(["block.x", "thread.x"])],
            "annotate": lambda: [self.block, "note", "here"],
            "compute_at": lambda: [self.block, self.loop(around=True)],
            "reverse_compute_at": lambda: [self.block, self.loop(around=True)],
            "decompose_reduction": lambda: [self.block, self.loop(around=True)],
            "flatten": lambda: [self.block],
            "rfactor": lambda: [self.loop(), self.one([2, 3])],
            "cache_read": lambda: [self.block, self.one([0, 1])],
            "cache_write": lambda: [self.block],
            "vectorize": lambda: self.one([[], [self.block]]),
            "tensorize": lambda: [self.block, "vector.contract"],
            "drop_unit_loops": list,
            "hoist": list,
            "sample_perfect_tile": lambda: [self.loop(), 2],
            "sample_categorical": lambda: [[1, 2, 3]],
        }
        options: dict[str, Callable[[], dict[str, Any]]] = {
            "split": lambda: {"peel": self.one([False, True])},
            "tile_and_fuse": lambda: {"overlap": self.one([False, True])},
            "cache_read": lambda: {"panels": self.one([None, self.loop(around=True)])},
        }
        return list(makers[primitive]()), options.get(primitive, dict)()


def take_step(schedule: Schedule, primitive: str, data: st.DataObject) -> None:
    """Try a primitive. What it refuses leaves the schedule as it was."""
    if not any(schedule.loops(name) for name in schedule.blocks()):
        return
    draw = Draw(schedule, data)
    if not schedule.loops(draw.block):
        return
    arguments, options = draw.arguments(primitive)
    before, steps = str(schedule), str(schedule.trace)
    try:
        getattr(schedule, primitive)(*arguments, **options)
    except ScheduleError as error:
        assert (str(schedule), str(schedule.trace)) == (before, steps), primitive
        # A refusal in MLIR's words only is a precondition that nobody checked.
        assert "Diagnostic message" not in str(error), error


@pytest.mark.parametrize("kind", PROGRAMS)
def test_accepted_schedules_compute_the_same(kind: str) -> None:
    accepted: Counter[str] = Counter()

    @hypothesis.settings(max_examples=CASES)
    @hypothesis.given(data=st.data())
    def check(data: st.DataObject) -> None:
        check_schedule(PROGRAMS[kind], data, accepted)

    check()
    assert sum(accepted.values()) >= 2 * CASES
    assert {"split", "reorder", "tile_and_fuse"} <= set(accepted)


def check_schedule(
    make: Callable[[Callable], Program], data: st.DataObject, accepted: Counter[str]
) -> None:
    """Draw a schedule and compare the numbers, and what its trace does to a fresh program."""
    program = make(lambda *options: data.draw(st.sampled_from(options)))
    module, schedule = program.schedule()
    common = sorted(Schedule.PRIMITIVES - {*RARE, *ELSEWHERE})
    for primitive in data.draw(st.lists(st.sampled_from(common + LIKELY), min_size=2, max_size=10)):
        take_step(schedule, primitive, data)
    vectors = data.draw(st.integers(0, 3)) == 0
    if vectors:
        take_step(schedule, data.draw(st.sampled_from(RARE)), data)
    accepted.update(step.primitive for step in schedule.trace)
    program.check(module, vectors=vectors)
    if data.draw(st.integers(0, 3)) == 0:
        for form in (schedule.trace.to_json(), schedule.trace.to_mlir()):
            again = mlir.parse(program.text)
            apply_schedule(again, form)
            assert str(again) == str(module)
