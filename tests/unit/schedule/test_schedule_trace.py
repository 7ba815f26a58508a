"""A schedule as data: Python, JSON and MLIR, and the same program from each."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from schedule_programs import convolution, linear_relu, reduction, refused

from mlcflow import mlir
from mlcflow.errors import ScheduleError
from mlcflow.schedule.apply import apply_schedule
from mlcflow.schedule.schedule import Schedule
from mlcflow.schedule.trace import replay

TEXT = linear_relu(8, 32, 12).text


def everything(sch: Schedule) -> None:
    """As many primitives as fit into one schedule."""
    sch.cache_read("root", 1)
    tile = sch.sample_perfect_tile("root.i", 2, decision=[4, 2])
    sch.split("root.i", [None, tile[-1]])
    sch.split("root.j", [None, 8, 2])
    sch.reorder("root.j_0", "root.i_0")
    sch.split("root.j_1", [None, 4])
    sch.parallel("root.j_0")
    sch.bind("root.i_0", "block.x")
    sch.reverse_compute_at("final", "root.i_0")
    sch.annotate("final", "note", "epilogue")
    sch.split("root.k", [None, 5], peel=True)
    sch.peel("root.k_0")
    sch.interchange("root", [1, 0, 2])
    sch.sample_categorical(["a", [1, 2], 3, True], decision=[1, 2])
    sch.fuse("root.j_1_0", "root.j_1_1")
    sch.unroll("root.j_1_0_j_1_1", 2)


def recipe(sch: Schedule) -> None:
    """What a rule does."""
    sch.tile_and_fuse("final", [4, 16], order=[1, 0])
    sch.split("root.k", [None, 2])
    sch.vectorize()
    sch.hoist()


def packed(sch: Schedule) -> None:
    """The layout first."""
    sch.pack("root", [4, 8, 2])
    sch.cache_write("root")
    sch.tile("root", [1, 1, 1])
    sch.drop_unit_loops()
    sch.pad("root", [1, 16])


@pytest.mark.parametrize("schedule_it", [everything, recipe, packed])
@pytest.mark.parametrize("form", ["to_json", "to_mlir", "replay", "python"])
def test_a_trace_repeats_the_schedule(form: str, schedule_it: Callable[[Schedule], None]) -> None:
    module = mlir.parse(TEXT)
    schedule = Schedule(module)
    schedule_it(schedule)
    again = mlir.parse(TEXT)
    if form == "replay":
        replay(schedule.trace, Schedule(again))
    elif form == "python":
        exec(str(schedule.trace), {"sch": Schedule(again)})
    else:
        apply_schedule(again, getattr(schedule.trace, form)())
    assert str(again) == str(module)
    assert len(schedule.trace) >= 3


def test_a_schedule_is_of_one_kernel_of_several() -> None:
    kernel = TEXT.replace("{\n  %zero", "attributes {mlcflow.kernel} {\n  %zero")
    module = mlir.parse(kernel.replace("@main", "@one") + kernel.replace("@main", "@two"))
    with pytest.raises(ScheduleError, match="unknown kernel 'on'; did you mean 'one'"):
        Schedule(module, "on")
    script = '[{"primitive": "split", "arguments": {"loop": "root.i", "factors": [null, 2]}}]'
    apply_schedule(module, script, "two")
    one, two = module.body.operations
    assert "scf.for" not in str(one) and "scf.for" in str(two)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "this is not the JSON of a trace"),
        ('[{"primitive": "splice"}]', "step 0 of the trace: no primitive 'splice'"),
        ('[{"primitive": "split", "arguments": {"lop": 1}}]', "step 0 of the trace: split"),
        ("module {", "this is not a valid MLIR module"),
        ("module {}", "expected a transform.named_sequence @__transform_main, found none"),
    ],
)
def test_what_is_no_schedule_is_refused(text: str, message: str) -> None:
    module = mlir.parse(TEXT)
    with pytest.raises(ScheduleError) as caught:
        apply_schedule(module, text)
    assert message in str(caught.value)


def test_samples_are_in_the_trace() -> None:
    _, schedule = convolution(4, 3, 2, 4).schedule()
    tile = schedule.sample_perfect_tile("root.l", 2, innermost=2)
    assert tile in ([4, 1], [2, 2])
    assert schedule.sample_categorical(["a", [1, 2]], decision=[1, 2]) == [1, 2]
    steps = json.loads(schedule.trace.to_json())
    assert [step["decision"] for step in steps] == [tile, [1, 2]]
    text = schedule.trace.to_mlir()
    assert text.count("transform.tune.knob") == 2
    assert 'options = ["a", [1, 2]]' in text and "[1, 2] from" in text
    _, again = convolution(4, 3, 2, 4).schedule()
    replay(schedule.trace, again)
    assert str(again.trace) == str(schedule.trace)


def test_samples_refuse() -> None:
    _, schedule = reduction(6, 8, "sum").schedule()
    wrong = refused(schedule, "sample_perfect_tile", "root.i", 2, decision=[4, 2])
    assert "decision [4, 2] is not among [[1, 6], [2, 3], [3, 2], [6, 1]]" in wrong
    assert "at least 1 factor, got 0" in refused(schedule, "sample_perfect_tile", "root.i", 0)
    wrong = refused(schedule, "sample_perfect_tile", "root.i", 1, innermost=4)
    assert "no 1 factors of 6 end in 4 or less" in wrong
    assert "at least one option" in refused(schedule, "sample_categorical", [])
    wrong = refused(schedule, "sample_categorical", [1, 2], decision=4)
    assert "decision 4 is not among [1, 2]" in wrong
    assert "expected a loop, a name, a number" in refused(schedule, "sample_categorical", [{}])
