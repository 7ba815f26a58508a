"""``mlcflow opt --schedule``: a schedule from a file, applied to a module from a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from schedule_programs import linear_relu

from mlcflow import mlir
from mlcflow.schedule.schedule import Schedule
from mlcflow.tools import main

PROGRAM = linear_relu(8, 32, 12)
Opt = Callable[..., Result]


@pytest.fixture
def opt(tmp_path: Path) -> Opt:
    """``opt(script, *options)`` applies the schedule to the program."""
    payload, script = tmp_path / "payload.mlir", tmp_path / "schedule"
    payload.write_text(PROGRAM.text)

    def call(text: str, *options: str) -> Result:
        script.write_text(text)
        return CliRunner().invoke(main, ["opt", str(payload), f"--schedule={script}", *options])

    return call


def scheduled() -> tuple[mlir.ir.Module, Schedule]:
    module = mlir.parse(PROGRAM.text)
    schedule = Schedule(module)
    schedule.tile_and_fuse("final", [4, 16], order=[1, 0])
    schedule.split("root.k", [None, schedule.sample_categorical([2, 4])])
    schedule.parallel("final.j_0")
    schedule.reorder("final.i_0", "final.j_0")
    schedule.vectorize("root")
    return module, schedule


@pytest.mark.parametrize("form", ["to_json", "to_mlir"])
def test_a_schedule_from_a_file_makes_the_same_program(form: str, opt: Opt) -> None:
    module, schedule = scheduled()
    result = opt(getattr(schedule.trace, form)(), "--kernel=main")
    assert result.exit_code == 0, result.output
    assert result.output.strip() == mlir.asm(module).strip()
    assert "vector.contract" in result.output


def test_what_does_not_apply_is_an_error(opt: Opt) -> None:
    step = '[{"primitive": "split", "arguments": {"loop": "root.i", "factors": [null, 3]}}]'
    result = opt(step)
    assert result.exit_code != 0 and "root.i has 8 iterations" in str(result.output)
    result = opt("[]", "--kernel=other")
    assert result.exit_code != 0 and "called other, found main" in str(result.output)


def test_usage(opt: Opt, tmp_path: Path) -> None:
    result = opt("[]", "--pipeline=cpu")
    assert result.exit_code == 2
    assert "--schedule excludes --pipeline and --pass-pipeline" in result.output
    missing = CliRunner().invoke(main, ["opt", "-", f"--schedule={tmp_path / 'no'}"], input="")
    assert missing.exit_code == 2 and "no file" in missing.output
    alone = CliRunner().invoke(main, ["opt", "-", "--kernel=main"], input="module {}")
    assert alone.exit_code == 2 and "--kernel needs --schedule" in alone.output
