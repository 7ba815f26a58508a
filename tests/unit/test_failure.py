"""What an error says when a step of a pipeline fails."""

from __future__ import annotations

import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import pytest
import torch

import mlcflow
from mlcflow import ImportModelError, LoweringError, MlcflowError, Pass, Pipeline, Stage, mlir
from mlcflow.failure import source_lines

ABS = """
func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {
  %0 = stablehlo.abs %x : tensor<2xf32> loc("model.py":7:3)
  return %0 : tensor<2xf32>
}
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reproducers go where pytest cleans up."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def fail(model: object, pipeline: str | Pipeline) -> LoweringError:
    with pytest.raises(LoweringError) as raised:
        mlcflow.compile(model, pipeline=pipeline)
    return raised.value


def run(command: str) -> subprocess.CompletedProcess:
    """Run a command as printed, with the ``mlcflow`` of this interpreter."""
    words = shlex.split(command, comments=True)
    words[0] = str(Path(sysconfig.get_path("scripts")) / words[0])
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_everything_is_named() -> None:
    error = fail(ABS, "reference")
    assert (error.stage, error.step) == ("bufferize", "require_memory")
    assert (error.op, error.location) == ("stablehlo.abs", "model.py:7")
    for part in (error.stage, error.step, error.op, "model.py:7", error.reproducer):
        assert part in str(error)


def test_what_mlir_says_is_passed_on() -> None:
    error = fail(ABS, PASSES)
    assert (error.stage, error.step) == ("all", "one-shot-bufferize")
    assert "stablehlo.abs" in error.op and error.location == "model.py:7"
    assert error.diagnostics == ("op was not bufferized",)
    assert "mlir: op was not bufferized" in str(error)


def test_the_command_shows_the_failure_again() -> None:
    error = fail(ABS, "reference")
    again = run(error.reproducer)
    assert again.returncode == 1
    assert f"step '{error.step}' failed" in again.stderr and "model.py:7" in again.stderr


PASSES = Pipeline("mine", (Stage("all", Pass("cse"), Pass("one-shot-bufferize"), Pass("inline")),))


def test_a_pipeline_without_a_name_spells_out_its_passes() -> None:
    error = fail(ABS, PASSES)
    assert error.reproducer.endswith("--pass-pipeline='builtin.module(cse,one-shot-bufferize)'")
    again = run(error.reproducer)
    assert again.returncode == 1 and "op was not bufferized" in again.stderr


def refuse(module: mlir.ir.Module) -> None:
    raise MlcflowError("this cannot be done")


def break_module(module: mlir.ir.Module) -> None:
    """Leaves a function whose return does not fit its type."""
    function = module.body.operations[0]
    other = mlir.ir.Type.parse("() -> ()")
    function.operation.attributes["function_type"] = mlir.ir.TypeAttr.get(other)


@pytest.mark.parametrize(
    ("step", "message"), [(refuse, "cannot be done"), (break_module, "'func.func' op")]
)
def test_a_function_that_fails_or_breaks_the_module(step, message: str) -> None:
    error = fail(ABS, Pipeline("mine", (Stage("only", Pass("cse"), step),)))
    assert (error.stage, error.step) == ("only", step.__name__)
    assert message in str(error)
    again = run(error.reproducer)  # prints the module as the stage found it
    assert again.returncode == 0 and "stablehlo.abs" in again.stdout


def test_an_unknown_pass() -> None:
    error = fail(ABS, Pipeline("mine", (Stage("only", Pass("no-such-pass")),)))
    assert "'no-such-pass' does not refer to a registered pass" in str(error)


def test_a_module_that_is_not_lowered() -> None:
    with pytest.raises(MlcflowError, match="record_interface"):
        mlcflow.compile(ABS, pipeline=Pipeline("empty", ()))


def test_no_main() -> None:
    text = "func.func @other() { return } func.func @another() { return }"
    error = fail(text, "reference")
    assert "expected a function @main with a body, found" in str(error)
    assert "other" in str(error) and "another" in str(error)


@pytest.mark.parametrize("text", ["", "garbage", "func.func @main(", "\x00\xff", "module {"])
def test_garbage(text: str) -> None:
    with pytest.raises(MlcflowError):
        mlcflow.compile(text)


def test_a_file_that_is_missing_or_wrong(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.mlir"
    wrong.write_text("func.func @main() {\n  return %x : f32\n}")
    with pytest.raises(ImportModelError, match=r"wrong\.mlir:2: .*undeclared"):
        mlcflow.compile(wrong)
    with pytest.raises(OSError, match="missing"):
        mlcflow.compile(tmp_path / "missing.mlir")


def test_missing_functions_are_all_listed() -> None:
    text = """
    func.func private @no_such_function(f32) -> f32
    func.func private @nor_this(f32) -> f32
    func.func @main(%x: f32) -> f32 {
      %y = func.call @no_such_function(%x) : (f32) -> f32
      %z = func.call @nor_this(%y) : (f32) -> f32
      return %z : f32
    }
    """
    with pytest.raises(mlcflow.ExecutionError, match="no_such_function, nor_this"):
        mlcflow.compile(text, pipeline="reference", trusted=True)


@pytest.mark.parametrize("model", [None, 3, [1, 2]])
def test_what_is_not_a_model(model: object) -> None:
    with pytest.raises(MlcflowError, match=f"got {type(model).__name__}"):
        mlcflow.compile(model)


def test_source_lines() -> None:
    library = "/x/site-packages/torch/nn.py"
    stack = f'loc(callsite("{library}":1:2 at "/home/me/model.py":30:4))'
    assert source_lines([stack, stack, 'loc("a.py":5:1)']) == "/home/me/model.py:30, a.py:5"
    assert source_lines([f'loc("{library}":1:2)']) == f"{library}:1"
    assert source_lines(["loc(unknown)"]) == ""


class Refused(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x
        return -x


def test_a_model_that_torch_export_refuses() -> None:
    with pytest.raises(ImportModelError, match="torch.export refused the model"):
        mlcflow.compile(Refused(), torch.ones(3))


def several(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    a = torch.special.erfinv(x)
    b = torch.lgamma(x)
    return a, b, x + 1


def test_all_unsupported_operations_are_listed_with_their_lines() -> None:
    with pytest.raises(ImportModelError) as raised:
        mlcflow.compile(several, torch.eye(3))
    text = str(raised.value)
    first = several.__code__.co_firstlineno
    assert "cannot lower 2 operation(s)" in text
    for number in (1, 2):
        assert f"test_failure.py:{first + number}" in text
    assert "aten.add" not in text
