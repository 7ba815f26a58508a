"""Pipelines: construction, selection, running, recording."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import pytest

import mlcflow
from mlcflow import LoweringError, MlcflowError, Pass, Pipeline, Stage, Target, mlir
from mlcflow.pipeline import step_name, write_module
from mlcflow.pipelines import PIPELINES, build, options, usual_target

ADD = """
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %empty = tensor.empty() : tensor<4xf32>
  %y = linalg.map { arith.addf } ins(%x, %x : tensor<4xf32>, tensor<4xf32>)
                                 outs(%empty : tensor<4xf32>)
  return %y : tensor<4xf32>
}
"""


def rename_main(module: mlir.ir.Module) -> None:
    module.body.operations[0].operation.attributes["sym_name"] = mlir.ir.StringAttr.get("other")


TWO = Pipeline("two", (Stage("first", Pass("cse"), rename_main), Stage("second", Pass("cse"))))


def test_stages_run_in_order_and_leave_their_module() -> None:
    module = mlir.parse(ADD)
    seen = []
    stages = TWO.run(module, on_stage=lambda record: seen.append(record.name))
    assert seen == list(stages) == ["first", "second"] and len(stages) == 2
    assert "@other" in mlir.asm(stages["first"]) and "@other" in mlir.asm(module)
    stages["second"].body.operations[0].operation.erase()
    assert "@other" in mlir.asm(stages["first"]), "the stages share a module"


def test_records() -> None:
    first, second = TWO.run(mlir.parse(ADD)).records
    assert [name for name, _ in first.steps] == ["cse", "rename_main"]
    assert first.operations == second.operations == 6
    assert first.seconds >= sum(seconds for _, seconds in first.steps) > 0


def test_without_keeping_the_stages_share_the_module() -> None:
    module = mlir.parse(ADD)
    stages = TWO.run(module, keep=False)
    assert stages["first"] is stages["second"] is module


@pytest.mark.parametrize(
    ("start", "until", "names"),
    [(None, None, ["first", "second"]), (None, "first", ["first"]), ("second", None, ["second"])],
)
def test_select(start: str | None, until: str | None, names: list[str]) -> None:
    assert [stage.name for stage in TWO.select(start, until)] == names


def test_select_refuses() -> None:
    with pytest.raises(MlcflowError, match="did you mean 'second'"):
        TWO.select(until="secnd")
    with pytest.raises(MlcflowError, match="stage 'first' comes before 'second'"):
        TWO.select("second", "first")
    with pytest.raises(MlcflowError, match="two stages are called 'a'"):
        Pipeline("twice", (Stage("a"), Stage("a")))


def test_check_lists_every_unknown_pass() -> None:
    bad = Pipeline("bad", (Stage("a", Pass("nope")), Stage("b", Pass("cse", nor_this=1))))
    with pytest.raises(LoweringError) as raised:
        bad.check()
    assert "stage 'a', nope" in str(raised.value) and "stage 'b', cse{nor-this=1}" in str(
        raised.value
    )


@pytest.mark.parametrize("name", PIPELINES)
def test_every_pipeline_has_known_passes_only(name: str) -> None:
    build(name, Target.parse(usual_target(name))).check()


@pytest.mark.parametrize("name", PIPELINES)
def test_every_stage_prints_parses_and_goes_on(name: str) -> None:
    """Going on from the printed module of any stage ends in the same module."""
    pipeline = build(name, Target.parse(usual_target(name)))
    stages = pipeline.run(mlir.parse(ADD))
    names = list(stages)
    last = mlir.asm(stages[names[-1]])
    for stage, following in itertools.pairwise(names):
        resumed = mlir.parse(mlir.asm(stages[stage], locations=True))
        pipeline.run(resumed, start=following)
        assert mlir.asm(resumed) == last, f"after {stage}"


def test_the_reference_lowering_runs_the_module_of_any_stage(pipeline: str) -> None:
    import numpy as np

    executable = mlcflow.compile(ADD, pipeline=pipeline)
    x = np.arange(4, dtype=np.float32)
    for name in list(executable.stages)[:-1]:
        again = mlcflow.compile(executable.stages[name], pipeline="reference")
        np.testing.assert_array_equal(again(x), x + x, err_msg=f"after {name}")


def test_options_of_the_pipelines() -> None:
    host = Target.host()
    assert set(options("reference")) == {"opt_level"}
    assert build("reference", host, opt_level=3).opt_level == 3
    assert build("reference", host, opt_level=3).arguments == ("--option=opt_level=3",)
    with pytest.raises(MlcflowError, match="did you mean 'opt_level'"):
        build("reference", host, opt_levle=3)
    with pytest.raises(MlcflowError, match="expected int, got '3'"):
        build("reference", host, opt_level="3")
    with pytest.raises(MlcflowError, match="did you mean 'reference'"):
        build("refrence", host)


def test_step_names() -> None:
    assert step_name(rename_main) == "rename_main"
    assert step_name(Pass("cse", on="func.func")) == "func.func(cse)"


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "module.mlir"
    module = mlir.parse(ADD)
    write_module(path, module)
    assert mlir.asm(mlir.parse_file(path)) == mlir.asm(module)
    assert [file.name for file in path.parent.iterdir()] == ["module.mlir"]


def test_dumps_of_the_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLCFLOW_DUMP_DIR", str(tmp_path))
    TWO.run(mlir.parse(ADD))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["00-first.mlir", "01-second.mlir"]


@pytest.mark.parametrize(
    ("level", "shown"), [("1", 2), ("2", 5), ("3", 7), ("4", 10)]
)  # two stages; three steps; the module after each of them
def test_what_debugging_logs(
    level: str, shown: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLCFLOW_DEBUG", level)
    with caplog.at_level(logging.INFO, "mlcflow"):
        TWO.run(mlir.parse(ADD))
    assert len(caplog.records) == shown
