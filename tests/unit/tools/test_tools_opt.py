"""``mlcflow opt``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Call = Callable[..., Any]


@pytest.mark.parametrize("garbage", ["func.func @main( {", b"\x00\xff\xfe garbage", "module {"])
def test_opt_garbage(garbage: str | bytes, call: Call) -> None:
    result = call("opt", text=garbage)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: this is not a valid MLIR module:\n  -:1: ")
    assert result.stdout == ""


def test_opt_error_names_the_file_and_line(call: Call) -> None:
    Path("bad.mlir").write_text("module {\n  func.call @nothing() : () -> ()\n}\n")
    result = call("opt", "bad.mlir")
    assert result.exit_code == 1
    assert "bad.mlir:2: 'func.call' op 'nothing' does not reference" in result.stderr


def test_opt_prints_what_it_reads(call: Call) -> None:
    printed = call("opt", "add.mlir").stdout
    assert "linalg.add" in printed
    assert call("opt", text=printed).stdout == printed
    assert call("opt", "-", text=printed).stdout == printed
    assert 'loc("add.mlir"' in call("opt", "add.mlir", "--locations").stdout


def test_opt_runs_stages_and_passes(call: Call) -> None:
    simple = call("opt", "add.mlir", "--pipeline=reference", "--until=simplify").stdout
    assert "mlcflow.input" in simple
    Path("simple.mlir").write_text(simple)
    rest = call("opt", "simple.mlir", "--pipeline=reference", "--start=bufferize", "--until=loops")
    assert "scf.for" in rest.stdout
    both = call("opt", "add.mlir", "--pipeline=reference", "--until=loops")
    assert both.stdout == rest.stdout
    generic = "builtin.module(func.func(linalg-generalize-named-ops))"
    assert "linalg.generic" in call("opt", "add.mlir", f"--pass-pipeline={generic}").stdout


def test_opt_failing_pass(call: Call, add: str) -> None:
    text = add.replace("linalg.add ins(%x, %x : tensor<4xf32>, tensor<4xf32>)", "arith.addf %x, %x")
    text = text.replace("      outs(%empty : tensor<4xf32>) -> tensor<4xf32>", " : tensor<4xf32>")
    result = call("opt", "--pass-pipeline=builtin.module(one-shot-bufferize)", text=text)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "error: --pass-pipeline 'builtin.module(one-shot-bufferize)' failed",
        "  at: -:4",
        "  mlir: op was not bufferized",
    ]


def test_opt_splits_its_input(call: Call, add: str) -> None:
    text = add + "// -----\nfunc.func @main( {\n// ----- the third\n" + add
    result = call("opt", "--split-input-file", text=text)
    assert result.exit_code == 1
    assert result.stdout.count("linalg.add") == 2
    assert result.stdout.count("// -----\n") == 1
    line = text.split("\n").index("func.func @main( {") + 1
    assert result.stderr.startswith("error: standard input, part 2 of 3: ")
    assert f"-:{line}: " in result.stderr


def test_opt_split_output_is_split_input(call: Call, add: str) -> None:
    once = call("opt", "--split-input-file", text=add + "// -----\n" + add)
    assert once.exit_code == 0
    assert call("opt", "--split-input-file", text=once.stdout).stdout == once.stdout


def test_opt_writes_at_once_or_not_at_all(call: Call) -> None:
    assert call("opt", "add.mlir", "-o", "out.mlir").stdout == ""
    written = Path("out.mlir").read_text()
    assert "linalg.add" in written
    failed = call("opt", "--split-input-file", "-o", "out.mlir", text="module {\n// -----\n")
    assert failed.exit_code == 1
    assert Path("out.mlir").read_text() == written
    assert call("opt", "add.mlir", "-o", "none/out.mlir").exit_code == 1
    assert not list(Path().glob("*.part"))


def test_pipeline_of_a_file(call: Call) -> None:
    options = ["--option=passes=true", "--option=times=3", "--target=cpu:haswell"]
    assert "linalg.add" in call("opt", "add.mlir", "--pipeline=mine.py", *options).stdout
    assert call("opt", "add.mlir", "--pipeline=mine.py:fixed", "--until=only").exit_code == 0
    wrong = call("opt", "add.mlir", "--pipeline=mine.py", "--option=passes=perhaps")
    assert wrong.exit_code == 2
    assert "option 'passes': expected bool, got 'perhaps'" in wrong.stderr


def test_the_reproducer_runs_as_printed(process: Call) -> None:
    words = ["--pipeline=mine.py:pipeline", "--option=times=2", "--target=cpu:haswell"]
    first = process(["opt", "add.mlir", *words])
    assert first.returncode == 1
    command = re.search(r"to see it again: (.*)", first.stderr)[1]
    assert command.startswith("mlcflow opt ")
    again = process(shlex.split(command)[1:])
    assert again.returncode == 1
    same = "error: pipeline 'mine.py:pipeline', stage 'last', step 'refuse' failed: it refuses"
    assert first.stderr.splitlines()[0] == again.stderr.splitlines()[0] == same
    for word in (*words, "--start=last", "--until=last"):
        assert word in shlex.split(command)


def test_debug_shows_stages_and_a_traceback(process: Call) -> None:
    result = process(["opt", "add.mlir", "--pipeline=mine.py"], MLCFLOW_DEBUG="1")
    assert result.returncode == 1
    assert re.search(r"^first +\d", result.stderr, re.MULTILINE)
    assert "Traceback" in result.stderr
    wrong = process(["opt", "add.mlir"], MLCFLOW_DEBUG="loud")
    assert wrong.returncode == 1
    assert wrong.stderr == "error: MLCFLOW_DEBUG: expected 0, 1, 2, 3 or 4, got 'loud'\n"
