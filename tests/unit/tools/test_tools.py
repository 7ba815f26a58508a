"""Every command: help, exit codes, messages; and `pipelines` and `doctor`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlcflow.gpu.driver import has_driver
from mlcflow.runtime.cache import Cache
from mlcflow.tools import COMMANDS, main

Call = Callable[..., Any]


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help(command: tuple[str, ...], call: Call) -> None:
    result = call(*command, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: {' '.join(('mlcflow', *command))}")


def test_help_needs_neither_mlir_nor_torch() -> None:
    code = (
        "import sys, click.testing, mlcflow.tools as t\n"
        "for words in (['--help'], ['run', '--help'], ['opt', '--help']):\n"
        "    assert click.testing.CliRunner().invoke(t.main, words).exit_code == 0\n"
        "print([m for m in ('torch', 'torch_mlir', 'numpy', 'rich') if m in sys.modules])\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_no_command_shows_the_help(call: Call) -> None:
    assert call().exit_code == 0
    assert "Commands:" in call().output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rnu"], "no command 'rnu'; did you mean 'run'?"),
        (["opt", "--untill=x"], "no such option"),
        (["opt", "add.mlir", "--until=x"], "--until needs --pipeline"),
        (["opt", "none.mlir"], "no file 'none.mlir'"),
        (["opt", "add.mlir", "--pipeline=cpuu"], "unknown pipeline 'cpuu'; did you mean 'cpu'?"),
        (
            ["opt", "add.mlir", "--pipeline=reference", "--until=bufferise"],
            "unknown stage 'bufferise' of pipeline 'reference'; did you mean 'bufferize'?",
        ),
        (["opt", "add.mlir", "--pipeline=reference", "--start=llvm", "--until=loops"], "before"),
        (["opt", "--pipeline=reference", "--pass-pipeline=builtin.module(cse)"], "exclude"),
        (["opt", "--pass-pipeline=builtin.module(csee)"], "'csee' does not refer to"),
        (["opt", "--pipeline=reference", "--option=opt_level"], "expected KEY=VALUE"),
        (["opt", "--pipeline=reference", "--option=opt_level=high"], "expected int, got 'high'"),
        (["opt", "--pipeline=reference", "--option=opt_lvl=1"], "did you mean 'opt_level'?"),
        (["opt", "--pipeline=reference", "--target=gpu"], "expected 'host', 'cpu:CHIP'"),
        (["opt", "--pipeline=reference", "--target=cpu:haswel"], "did you mean 'haswell'?"),
        (["opt", "--pipeline=none.py:f"], "no file 'none.py'"),
        (["opt", "--pipeline=mine.py:pipelin"], "did you mean 'pipeline' or"),
        (["opt", "--pipeline=mine.py:number"], "expected a Pipeline, got int"),
        (["run", "digit"], "unknown example 'digit'; did you mean 'digits'?"),
        (["run", "none.py"], "no file 'none.py'"),
        (["run", "model.py:modle"], "did you mean 'model'?"),
        (["run", "model.py", "--input=none.npy"], "no file 'none.npy'"),
        (["run", "model.py", "--quick"], "--quick is for the built-in examples"),
        (["run", "digits", "--repeat=3"], "the example 'digits' has no --repeat"),
        (["run", "add.mlir", "--output=a.npy", "--output=b.npy"], "the model has 1 results, got 2"),
        (["pipelines", "cpuu"], "unknown pipeline 'cpuu'; did you mean 'cpu'?"),
    ],
)
def test_a_command_that_is_not_understood_ends_with_2(
    words: list[str], message: str, call: Call
) -> None:
    result = call(*words)
    assert result.exit_code == 2
    first = result.stderr.splitlines()[0]
    assert first.startswith("error: ")
    assert message in result.stderr
    assert f"see 'mlcflow{' opt' if words[0] == 'opt' else ''}" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "add.mlir", "--input=five.npy"], "got an array of shape (5,)"),
        (["run", "add.mlir", "--input=four.npy", "--input=four.npy"], "expected 1 inputs"),
        (["run", "add.mlir", "--input=add.mlir"], "not a .npy file"),
        (["run", "model.py:number"], "got int"),
        (["run", "model.py:broken"], "model.py:26: calling broken() raised KeyError: 'weights'"),
        (["run", "model.py:lost"], "gave 3 values, expected (model, inputs)"),
        (["run", "model.py:no_lowering"], "torch.aten.linalg_qr"),
        (["run", "syntax.py"], "syntax.py:2: running it raised SyntaxError"),
        (["opt", "--pipeline=mine.py:typo"], "mine.py:12: calling typo() raised AttributeError"),
        (["opt", "add.mlir", "--pipeline=mine.py"], "stage 'last', step 'refuse' failed"),
    ],
)
def test_a_model_that_fails_ends_with_1(words: list[str], message: str, call: Call) -> None:
    Path("syntax.py").write_text("x = 1\ny = (\n")
    result = call(*words)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_pipelines(call: Call) -> None:
    listed = call("pipelines").stdout
    assert "reference" in listed and "stages: simplify" in listed
    page = call("pipelines", "reference").stdout
    assert "opt_level: int = 1" in page
    assert "stage bufferize" in page
    assert "  tm-tensor-bufferize" in page or "(tm-tensor-bufferize)" in page
    data = json.loads(call("pipelines", "--json").stdout)
    assert [pipeline["name"] for pipeline in data] == ["reference", "cpu", "cuda"]
    assert data[0]["options"] == [{"name": "opt_level", "type": "int", "default": 1}]
    assert all(stage["steps"] for pipeline in data for stage in pipeline["stages"])


def test_doctor(call: Call) -> None:
    result = call("doctor")
    assert result.exit_code == 0, result.output
    for word in ("torch-mlir", "cores", "right, in"):
        assert word in result.stdout
    report = json.loads(call("doctor", "--json").stdout)
    assert report["healthy"]
    gpu = ["cuda"] if has_driver() else []
    assert [test["pipeline"] for test in report["self_test"]] == ["reference", "cpu", *gpu]
    assert report["target"]["cores"] >= 1


def test_doctor_tells_what_is_missing(monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    from mlcflow.check import packages

    versions = {"torch-mlir": "1", "scikit-learn": None}
    real = packages._version
    monkeypatch.setattr(packages, "_version", lambda name: versions.get(name, real(name)))
    monkeypatch.setitem(versions, "numpy", real("numpy"))
    result = call("doctor")
    assert result.exit_code == 1
    assert re.search(
        r"torch-mlir +1, but needed is ==\d+: pip install 'torch-mlir==", result.stdout
    )
    assert re.search(r"scikit-learn +missing, for mlcflow\[examples\]: pip install", result.stdout)


def test_doctor_without_a_needed_package(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlcflow.check import packages

    real = packages._version
    monkeypatch.setattr(
        packages, "_version", lambda name: (name != "archspec" and real(name)) or None
    )
    result = call("doctor")
    assert result.exit_code == 1
    assert "missing, needed: pip install 'archspec" in result.stdout
    assert json.loads(call("doctor", "--json").stdout)["healthy"] is False


def test_missing_packages_of_an_example(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlcflow.check import packages

    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.delitem(sys.modules, "mlcflow.examples.digits", raising=False)
    monkeypatch.setattr(packages, "_version", lambda name: None)
    result = call("run", "digits")
    assert result.exit_code == 1
    assert (
        "the example 'digits' needs torch and scikit-learn: pip install 'torch==" in result.stderr
    )


def test_missing_package_of_a_model(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    result = call("run", "model.py")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: this needs torch: pip install 'torch==")


def test_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLCFLOW_CACHE_DIR", str(tmp_path / "c"))
    empty = CliRunner().invoke(main, ["cache"])
    assert empty.exit_code == 0 and "0 compiled programs" in empty.stdout
    cache = Cache(tmp_path / "c")
    cache.write("a" * 64, bytes(1000))
    cache.write("b" * 64, bytes(2000))
    shown = CliRunner().invoke(main, ["cache"])
    assert "2 compiled programs, 0.0 MB of at most 1074 MB" in shown.stdout
    report = json.loads(CliRunner().invoke(main, ["cache", "--json"]).stdout)
    assert [entry["key"][0] for entry in report["entries"]] == ["a", "b"]
    assert report["bytes"] > 3000 and report["problem"] is None
    cleared = CliRunner().invoke(main, ["cache", "--clear"])
    assert "removed 2 programs" in cleared.stdout and cache.entries() == []
    (tmp_path / "c").chmod(0o777)
    refused = CliRunner().invoke(main, ["cache"])
    assert refused.exit_code == 1 and "the cache is not used: " in refused.stderr
    monkeypatch.setenv("MLCFLOW_CACHE_DIR", "")
    off = CliRunner().invoke(main, ["cache"])
    assert off.exit_code == 0 and "switched off: MLCFLOW_CACHE_DIR is empty" in off.stdout
