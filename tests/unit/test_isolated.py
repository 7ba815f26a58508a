"""Compiling in a process of its own: the same executable, and an error for whatever kills."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import mlcflow
from mlcflow import Pass, Pipeline, Stage, mlir
from mlcflow.check.isolate import Limits, is_supported
from mlcflow.check.parcel import Parcel
from mlcflow.errors import ImportModelError, LoweringError
from mlcflow.mlir import ir, rewrite
from mlcflow.pipelines import build
from mlcflow.runtime import object_code
from mlcflow.target import Target
from mlcflow.tools import main

pytestmark = pytest.mark.skipif(not is_supported(), reason="needs Linux")

HOST = Target.host()
X = torch.linspace(-1, 1, 24).reshape(3, 8)
EXP = """
func.func @main(%x: tensor<4x8xf32>) -> tensor<4x8xf32> {
  %e = tensor.empty() : tensor<4x8xf32>
  %r = linalg.exp ins(%x : tensor<4x8xf32>) outs(%e : tensor<4x8xf32>) -> tensor<4x8xf32>
  return %r : tensor<4x8xf32>
}"""


class Net(torch.nn.Module):
    """A layer, a constant that only lowering finds, results of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> tuple:
        table = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
        return self.layer(x).relu(), {"sum": x.sum(), "double": table.sum() + x.double()}


@pytest.mark.parametrize("cached", [False, True])
def test_the_executable_is_the_same(tmp_path: Path, cached: bool) -> None:
    model = Net().eval()
    here = mlcflow.compile(model, X, cache=tmp_path / "1" if cached else False)
    there = mlcflow.compile(model, X, cache=tmp_path / "2" if cached else False, isolate=True)
    torch.testing.assert_close(there(X), model(X))
    torch.testing.assert_close(there(X), here(X), rtol=0, atol=0)
    assert [r.name for r in there.stages.records] == [r.name for r in here.stages.records]
    for name in here.stages:
        assert str(there.stages[name]) == str(here.stages[name])
    assert len({r.module.context for r in there.stages.records}) == 1  # as when they run here
    assert there.parameters["layer.weight"].data_ptr() == model.layer.weight.data_ptr()
    if cached:
        entries = [next((tmp_path / n).iterdir()) for n in ("1", "2")]
        assert entries[0].name == entries[1].name
        assert entries[0].read_bytes() == entries[1].read_bytes()


def test_constants_that_lowering_adds_come_along() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        return x * torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8]) + torch.tensor(True)

    exe = mlcflow.compile(model, X, isolate=True, cache=False)
    assert torch.equal(exe(X), model(X))


@pytest.mark.parametrize("pipeline", ["reference", "cpu"])
def test_modules_text_and_files(tmp_path: Path, pipeline: str) -> None:
    """A module of this process has a context with threads, which the worker has not."""
    (tmp_path / "m.mlir").write_text(EXP)
    module = mlir.parse(EXP)
    Pass("canonicalize", on="func.func")(module)
    x = X.reshape(-1)[:8].expand(4, 8).numpy()
    for source in (EXP, tmp_path / "m.mlir", module, mlir.asm(module).encode()):
        exe = mlcflow.compile(source, pipeline=pipeline, isolate=True, cache=False)
        np.testing.assert_allclose(exe(x), np.exp(x), rtol=1e-6)


def test_stages_are_seen_as_they_come() -> None:
    seen: list[Any] = []
    exe = mlcflow.compile(EXP, isolate=True, on_stage=seen.append)
    assert [r.name for r in seen] == [stage.name for stage in exe.pipeline.stages]
    assert all(r.operations and r.steps for r in seen)
    assert "linalg.exp" in str(seen[0].module) and "linalg.exp" in str(exe.stages["simplify"])


def test_without_a_linker_for_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_code, "is_available", lambda: False)
    exe = mlcflow.compile(EXP, isolate=True)
    np.testing.assert_allclose(exe(np.ones((4, 8), np.float32)), np.exp(1), rtol=1e-6)


def test_errors_are_the_usual_ones(tmp_path: Path) -> None:
    with pytest.raises(ImportModelError, match="this is not a valid MLIR module"):
        mlcflow.compile("garbage", isolate=True)
    with pytest.raises(FileNotFoundError):
        mlcflow.compile(tmp_path / "none.mlir", isolate=True)
    bad = Pipeline("bad", (Stage("early", Pass("convert-to-llvm")),))
    with pytest.raises(mlcflow.MlcflowError) as here:
        mlcflow.compile(EXP, pipeline=bad)
    with pytest.raises(type(here.value)) as there:
        mlcflow.compile(EXP, pipeline=bad, isolate=True)
    assert str(there.value) == str(here.value)


# Each kills a process that has no worker. They come from models, modules, schedules, steps.

LIKE_INT4 = """
func.func @main(%x: !torch.vtensor<[3,4],f32>, %like: !torch.vtensor<[1],si4>)
    -> !torch.vtensor<[3,4],si4> attributes {torch.onnx_meta.opset_version = 21 : si64} {
  %0 = torch.operator "onnx.CastLike"(%x, %like)
      : (!torch.vtensor<[3,4],f32>, !torch.vtensor<[1],si4>) -> !torch.vtensor<[3,4],si4>
  return %0 : !torch.vtensor<[3,4],si4>
}"""
RESHAPE_ALLOWZERO = """
func.func @main(%x: !torch.vtensor<[0,3,4],f32>) -> !torch.vtensor<[3,4,0],f32>
    attributes {torch.onnx_meta.opset_version = 17 : si64} {
  %shape = torch.operator "onnx.Constant"() {torch.onnx.value = dense<[3,4,0]> : tensor<3xsi64>}
      : () -> !torch.vtensor<[3],si64>
  %0 = torch.operator "onnx.Reshape"(%x, %shape) {torch.onnx.allowzero = 1 : si64}
      : (!torch.vtensor<[0,3,4],f32>, !torch.vtensor<[3],si64>) -> !torch.vtensor<[3,4,0],f32>
  return %0 : !torch.vtensor<[3,4,0],f32>
}"""
WRONG_HANDLE = """
module attributes {transform.with_named_sequence} {
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  return %x : tensor<4xf32>
}
transform.named_sequence @__transform_main(%root: !transform.any_op) {
  %f = transform.structured.match ops{["func.func"]} in %root
      : (!transform.any_op) -> !transform.any_op
  transform.structured.rewrite_in_destination_passing_style %f
      : (!transform.any_op) -> !transform.any_op
  transform.yield
}
}"""
FROM_ONNX = Pass("torch-onnx-to-torch-backend-pipeline")
TO_LINALG = Pass("torch-backend-to-linalg-on-tensors-backend-pipeline")
QUICK = Limits(seconds=2)


def never_ending(module: ir.Module) -> None:
    """Patterns that undo each other."""

    def rename(to: str) -> Callable:
        def run(op: Any, rewriter: Any) -> None:
            with op.context, op.location, ir.InsertionPoint(op):
                rewriter.replace_op(op, ir.Operation.create(to, [op.result.type]))

        return run

    with module.context:
        module.context.allow_unregistered_dialects = True
        with ir.Location.unknown(), ir.InsertionPoint.at_block_begin(module.body):
            ir.Operation.create("here.tick", [ir.IntegerType.get_signless(1)])
        patterns = rewrite.RewritePatternSet()
        patterns.add("here.tick", rename("here.tock"))
        patterns.add("here.tock", rename("here.tick"))
        config = rewrite.GreedyRewriteConfig()
        config.max_iterations = -1
        rewrite.apply_patterns_and_fold_greedily(module, patterns.freeze(), config)


def fatal_in_llvm(module: ir.Module) -> None:
    """A collector that LLVM does not know, which it finds out at the end."""
    for op in module.body.operations:
        op.attributes["garbageCollector"] = ir.StringAttr.get("none-such", module.context)


def killers() -> list:
    to_llvm = build("reference", HOST).stages
    return [
        (LIKE_INT4, (FROM_ONNX,), Limits(), "one", str(FROM_ONNX), "SIGABRT"),
        (RESHAPE_ALLOWZERO, (FROM_ONNX, TO_LINALG), Limits(), "one", str(TO_LINALG), "SIGFPE"),
        (WRONG_HANDLE, (Pass("cse"), Pass("transform-interpreter")), Limits(), "one",
         "transform-interpreter", "SIGSEGV"),
        (EXP, (Pass("cse"), never_ending), QUICK, "one", "never_ending", "not done within 2 s"),
        (EXP, (*to_llvm, Stage("wrong", fatal_in_llvm)), Limits(), "machine code",
         "LLVM at level 3", "SIG"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "steps", "limits", "stage", "step", "how"),
    killers(),
    ids=["int4 cast", "allowzero", "transform", "patterns", "LLVM"],
)
def test_killers_are_exceptions(
    text: str, steps: tuple, limits: Limits, stage: str, step: str, how: str
) -> None:
    stages = steps if isinstance(steps[0], Stage) else (Stage("one", *steps),)
    pipeline = Pipeline("mine", stages)
    with pytest.raises(LoweringError) as info:
        mlcflow.compile(text, pipeline=pipeline, isolate=limits, trusted=True)
    error = info.value
    assert (error.stage, error.step) == (stage, step), error
    assert f"stage '{stage}', step '{step}': the compiler" in str(error) and how in str(error)
    words = shlex.split(error.reproducer, comments=True)
    before = Path(words[2]).read_text()
    assert ("onnx" in before) == ("onnx" in text) and mlir.parse(before)
    if words[3:]:  # a step in Python has no name that a command could use
        result = CliRunner().invoke(main, words[1:])
        assert result.exit_code == 1 and "the compiler" in result.output
        assert isinstance(result.exception, SystemExit)


def test_a_model_of_pytorch_that_kills() -> None:
    """Zero elements in another shape: torch-mlir divides by zero."""
    with pytest.raises(LoweringError, match="SIGFPE") as info:
        mlcflow.compile(lambda x: x.reshape(3, 4, 0), torch.zeros(0, 3, 4), isolate=True)
    assert info.value.stage == "import" and info.value.step == str(TO_LINALG)
    assert "torch.aten.view" in Path(shlex.split(info.value.reproducer)[2]).read_text()


def test_out_of_memory_and_time() -> None:
    def take(module: ir.Module) -> None:
        kept = []
        while True:
            kept.append(b"x" * (1 << 24))

    def sleep(module: ir.Module) -> None:
        time.sleep(60)

    for step, limits, how in (
        (take, Limits(memory=1 << 29), "needed more than 0.5 GiB of memory"),
        (sleep, Limits(seconds=0.3), "was not done within 0.3 s"),
    ):
        pipeline = Pipeline("mine", (Stage("first", Pass("cse")), Stage("second", step)))
        with pytest.raises(LoweringError, match=how) as info:
            mlcflow.compile(EXP, pipeline=pipeline, isolate=limits)
        assert (info.value.stage, info.value.step) == ("second", step.__name__)


def test_what_kills_the_parser() -> None:
    text = "func.func @main() {" + "scf.execute_region {" * 50000
    with pytest.raises(LoweringError, match="stage 'import', step 'parse'") as info:
        mlcflow.compile(text, isolate=True)
    assert Path(shlex.split(info.value.reproducer)[2]).read_text() == text


def test_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "m.mlir").write_text(WRONG_HANDLE)
    command = [
        "opt",
        str(tmp_path / "m.mlir"),
        "--pass-pipeline=builtin.module(transform-interpreter)",
    ]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert "stage 'pass pipeline', step 'builtin.module(transform-interpreter)'" in result.output
    assert "SIGSEGV" in result.output and "to see it again: mlcflow opt" in result.output
    (tmp_path / "deep.mlir").write_text("func.func @main() {" + "scf.execute_region {" * 50000)
    result = CliRunner().invoke(main, ["run", str(tmp_path / "deep.mlir")])
    assert result.exit_code == 1 and "stage 'import', step 'parse'" in result.output
    for words in (["--no-isolate", "--time-limit=3"], ["--time-limit=0"], ["--memory-limit=x"]):
        assert CliRunner().invoke(main, ["opt", str(tmp_path / "m.mlir"), *words]).exit_code == 2


def test_no_isolate_compiles_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.mlir").write_text(EXP)
    forks: list[int] = []
    fork = os.fork
    monkeypatch.setattr(os, "fork", lambda: forks.append(1) or fork())
    for command in ("opt", "run"):
        forks.clear()
        result = CliRunner().invoke(main, [command, str(tmp_path / "m.mlir"), "--no-isolate"])
        assert result.exit_code == 0 and not forks
        result = CliRunner().invoke(main, [command, str(tmp_path / "m.mlir")])
        assert result.exit_code == 0 and forks


def test_a_parcel_with_tensors_of_all_kinds() -> None:
    tensors = {
        "bfloat16": torch.tensor([1.5, -2], dtype=torch.bfloat16),
        "complex": torch.tensor([[1 + 2j]]),
        "bool": torch.tensor(True),
        "empty": torch.zeros(0, 3, dtype=torch.int8),
        "with gaps": torch.arange(6).reshape(2, 3).t(),
    }
    back = Parcel.from_bytes(Parcel(b"program", tensors).to_bytes())
    assert back.program == b"program" and list(back.parameters) == list(tensors)
    for name, tensor in tensors.items():
        assert back.parameters[name].dtype == tensor.dtype
        assert torch.equal(back.parameters[name], tensor)
