"""What people do by mistake, or on purpose, ends in a message that says what to do next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlcflow.check import isolate
from mlcflow.tools import main

pytestmark = pytest.mark.skipif(not isolate.is_supported(), reason="needs worker processes")

ADD = """
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %y = arith.addf %x, %x : tensor<4xf32>
  return %y : tensor<4xf32>
}
"""

FILES = {
    "other.mlir": (ADD.replace("@main", "@other").encode(), "expected a function @main"),
    "cut.mlir": (ADD[:60].encode(), "cut.mlir:3"),
    "bytes.mlir": (b"\xff\xfe\x00", "bytes.mlir:1"),
    "code.mlir": (b"ML\xefR\x01\x02\x03", "code.mlir"),
    "syntax.py": (b"def f(:\n", "syntax.py:1"),
    "latin.py": (b"\xff = 1\n", "latin.py:1"),
    "leaves.py": (b"import sys\n\nsys.exit(3)\n", "leaves.py:3: running it raised SystemExit"),
    "number.py": (b"model = 3\n", "expected a torch.nn.Module"),
    "none.py": (b"x = 3\n", "unknown name 'model'"),
}


@pytest.mark.parametrize("command", ["check", "verify", "bisect", "report"])
@pytest.mark.parametrize("name", FILES)
def test_files_that_hold_no_model(command: str, name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    data, message = FILES[name]
    Path(name).write_bytes(data)
    result = CliRunner().invoke(main, [command, name])
    assert result.exit_code in (1, 2) and isinstance(result.exception, SystemExit)
    assert message in result.output, result.output
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_file()) == [name]


@pytest.mark.parametrize("command", ["check", "verify", "bisect", "report"])
@pytest.mark.parametrize("name", ["missing.mlir", "folder.mlir", "folder", "resnet5", "loop.mlir"])
def test_names_of_nothing(command: str, name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("folder.mlir", "folder"):
        Path(folder).mkdir()
    Path("loop.mlir").symlink_to("loop.mlir")
    result = CliRunner().invoke(main, [command, name])
    assert result.exit_code == 2 and f"'{name}'" in result.output


HUGE = ADD.replace("4xf32", "1000000x1000000x1000xf32")
META = """
import torch

model = torch.nn.Linear(4, 4, device="meta")
inputs = torch.ones(2, 4, device="meta")
"""


@pytest.mark.parametrize("command", ["verify", "bisect", "report"])
def test_shapes_that_no_machine_holds(command: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("huge.mlir").write_text(HUGE)
    result = CliRunner().invoke(main, [command, "huge.mlir"])
    assert result.exit_code == 1 and "out of memory" in result.output


def test_parameters_without_numbers(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("meta.py").write_text(META)
    result = CliRunner().invoke(main, ["verify", "meta.py"])
    assert result.exit_code == 1 and "expected a tensor on the CPU" in result.output


ABORTS = """
import os
import torch

class Aborts(torch.nn.Module):
    def forward(self, x):
        return x + 1

model, inputs = Aborts(), torch.ones(3)

import mlcflow.frontends.torch as frontend
frontend._lower = lambda module: os.abort()
"""


@pytest.mark.parametrize("command", ["check", "verify", "bisect"])
def test_an_import_that_ends_the_process(command: str, tmp_path: Path, monkeypatch) -> None:
    from mlcflow.frontends import torch as frontend

    monkeypatch.setattr(frontend, "_lower", frontend._lower)  # put back what the file replaces
    (tmp_path / "aborts.py").write_text(ABORTS)
    result = CliRunner().invoke(main, [command, str(tmp_path / "aborts.py")])
    assert result.exit_code == 1 and "SIGABRT" in result.output


def start(*words: str, closed: int | None = None, **options) -> subprocess.Popen:
    """A command that Ctrl-C ends, whatever started the tests."""

    def settle() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if closed is not None:
            os.close(closed)

    command = [sys.executable, "-m", "mlcflow", *words]
    return subprocess.Popen(command, text=True, stderr=-1, preexec_fn=settle, **options)


def test_standard_streams_that_are_closed(tmp_path: Path) -> None:
    (tmp_path / "add.mlir").write_text(ADD)
    process = start("run", "add.mlir", cwd=tmp_path, closed=1)
    _, errors = process.communicate()
    assert process.returncode == 0 and errors == ""


def test_a_reader_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "add.mlir").write_text(ADD)
    reader, writer = os.pipe()
    os.close(reader)
    process = start("check", "add.mlir", "--json", cwd=tmp_path, stdout=writer)
    os.close(writer)
    _, errors = process.communicate()
    assert process.returncode == 1 and "Traceback" not in errors


HANGS = """
import pathlib, time
from mlcflow import Pipeline, Stage

def hang(module):
    pathlib.Path("here").touch()
    time.sleep(1000)

pipeline = Pipeline("hangs", (Stage("first", hang),))
"""


@pytest.mark.parametrize("command", ["check", "verify", "bisect", "report"])
def test_a_command_that_is_interrupted(command: str, tmp_path: Path) -> None:
    (tmp_path / "add.mlir").write_text(ADD)
    (tmp_path / "hangs.py").write_text(HANGS)
    process = start(command, "add.mlir", "--pipeline=hangs.py", cwd=tmp_path, stdout=-1)
    while not (tmp_path / "here").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 1 and errors.strip() == "Aborted!"
