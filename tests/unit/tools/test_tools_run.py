"""``mlcflow run`` on the models of files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Call = Callable[..., Any]


@pytest.mark.parametrize("name", ["", ":model", ":Net", ":make", ":double"])
def test_run_finds_the_model(name: str, call: Call) -> None:
    result = call("run", f"model.py{name}")
    assert result.exit_code == 0, result.output
    assert "verified: the results are those of PyTorch" in result.stdout
    assert "result 0: float32[" in result.stdout


def test_run_takes_keyword_inputs(call: Call) -> None:
    with Path("model.py").open("a") as file:
        file.write('inputs = {"x": torch.ones(2), "scale": torch.full((2,), 3.0)}\n')
    assert "result 0: float32[2]" in call("run", "model.py:named").stdout


def test_run_takes_tensor_functions(call: Call) -> None:
    Path("double.py").write_text(
        "import mlcflow\n"
        "from mlcflow import language as T\n"
        "@mlcflow.tensor_function\n"
        'def model(A: T.Tensor((4,), "float32")):\n'
        '    B = T.empty((4,), "float32")\n'
        "    for i in T.spatial(4):\n"
        "        B[i] = A[i] * 2.0\n"
        "    return B\n"
    )
    made_up = call("run", "double.py")
    assert made_up.exit_code == 0, made_up.output
    assert "verified: the results are those of pipeline 'reference'" in made_up.stdout
    assert call("run", "double.py", "--input=four.npy", "--output=y.npy").exit_code == 0
    np.testing.assert_array_equal(np.load("y.npy"), [0, 2, 4, 6])


def test_run_reads_and_writes_arrays(call: Call) -> None:
    np.save("x.npy", np.ones((5, 3), np.float32))
    result = call("run", "model.py", "--input=x.npy", "--output=y.npy", "--output=sum.npy")
    assert result.exit_code == 0, result.output
    assert np.load("y.npy").shape == (5, 2)
    assert np.load("sum.npy") == 15
    assert call("run", "add.mlir", "--input=four.npy", "--output=y.npy").exit_code == 0
    np.testing.assert_array_equal(np.load("y.npy"), [0, 2, 4, 6])


def test_run_keeps_bfloat16(call: Call, add: str) -> None:
    Path("add.mlir").write_text(add.replace("f32", "bf16"))
    first = call("run", "add.mlir", "--pipeline=reference", "--output=once.npy")
    assert first.exit_code == 0, first.output
    again = call("run", "add.mlir", "--input=once.npy", "--output=twice.npy")
    assert again.exit_code == 0, again.output
    assert np.load("twice.npy").dtype.itemsize == 2


def test_run_makes_up_the_same_numbers(call: Call) -> None:
    call("run", "add.mlir", "--output=first.npy", "--pipeline=reference")
    call("run", "add.mlir", "--output=second.npy", "--pipeline=cpu")
    np.testing.assert_array_equal(np.load("first.npy"), np.load("second.npy"))


def test_run_writes_the_stages(call: Call) -> None:
    assert call("run", "add.mlir", "--pipeline=reference", "--dump-dir=ir").exit_code == 0
    names = [path.name for path in sorted(Path("ir").iterdir())]
    assert names == ["00-simplify.mlir", "01-bufferize.mlir", "02-loops.mlir", "03-llvm.mlir"]
    resumed = call("opt", "ir/00-simplify.mlir", "--pipeline=reference", "--start=bufferize")
    assert "llvm.func" in resumed.stdout


def test_run_json(call: Call) -> None:
    report = json.loads(call("run", "add.mlir", "--json", "--repeat=3").stdout)
    assert report["results"] == ["float32[4]"]
    assert report["verified"] == "pipeline 'reference'"
    assert report["call_seconds"]["calls"] == 3
    assert report["call_seconds"]["least"] > 0
    stages = [stage["name"] for stage in report["stages"]]
    assert stages[0] == "simplify" and stages[-1] == "llvm"
    unverified = json.loads(call("run", "add.mlir", "--json", "--no-verify").stdout)
    assert unverified["verified"] is None


def test_run_tells_the_memory(call: Call) -> None:
    told = call("run", "add.mlir", "--memory").stdout
    assert "memory:\n" in told and "arena" in told
    report = json.loads(call("run", "add.mlir", "--memory", "--json", "--no-verify").stdout)
    assert report["memory"]["results"] == report["memory"]["inputs"] == 16
    assert "'plan_memory'" in call("run", "add.mlir", "--memory", "--pipeline=reference").output


def test_run_uses_as_many_threads_as_it_may(call: Call) -> None:
    assert call("run", "add.mlir", "--threads=1").exit_code == 0
    failed = call("run", "add.mlir", "--threads=2", "--pipeline=reference")
    assert failed.exit_code == 1 and "expected 1 to 1" in failed.output
    assert "the example 'digits' has no --threads" in call("run", "digits", "--threads=1").output


def test_run_notes_training_mode(call: Call) -> None:
    assert "note: the model is in training mode" not in call("run", "model.py").stdout
    with Path("model.py").open("a") as file:
        file.write("model.train()\n")
    assert "note: the model is in training mode" in call("run", "model.py").stdout
