"""What the tests of the command line share: a folder of files, and two ways to call."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mlcflow.tools import main

ADD = """
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %empty = tensor.empty() : tensor<4xf32>
  %sum = linalg.add ins(%x, %x : tensor<4xf32>, tensor<4xf32>)
      outs(%empty : tensor<4xf32>) -> tensor<4xf32>
  return %sum : tensor<4xf32>
}
"""

MODEL = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, x):
        return {"y": self.layer(x), "sum": x.sum()}

model = Net().eval()
inputs = torch.ones(4, 3)
number = 3

def make():
    return Net().eval(), (torch.ones(1, 3),)

def double(x):
    return 2 * x

def named(x, *, scale):
    return x * scale

def broken():
    raise KeyError("weights")

def lost():
    return 1, 2, 3

def no_lowering(x):
    return torch.linalg.qr(x)
"""

PIPELINE = """
from mlcflow import MlcflowError, Pass, Pipeline, Stage

def refuse(module):
    raise MlcflowError("it refuses")

def pipeline(target, *, passes: bool = False, times: int = 1):
    last = Pass("cse") if passes else refuse
    return Pipeline("mine", (Stage("first", *[Pass("canonicalize")] * times), Stage("last", last)))

def typo(target):
    return target.chipp

number = 3
fixed = Pipeline("fixed", (Stage("only", Pass("cse")),))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with a model, a pipeline and MLIR in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "add.mlir").write_text(ADD)
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "mine.py").write_text(PIPELINE)
    np.save(tmp_path / "four.npy", np.arange(4, dtype=np.float32))
    np.save(tmp_path / "five.npy", np.arange(5, dtype=np.float32))
    return tmp_path


@pytest.fixture
def add() -> str:
    """The text of ``add.mlir``."""
    return ADD


@pytest.fixture
def call() -> Callable[..., Result]:
    """``mlcflow`` in this process."""

    def run(*words: str, text: str | bytes | None = None) -> Result:
        return CliRunner().invoke(main, words, input=text, prog_name="mlcflow")

    return run


@pytest.fixture
def process() -> Callable[..., subprocess.CompletedProcess]:
    """``mlcflow`` as a process of its own."""

    def run(words: list[str], **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "mlcflow", *words],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | environment,
        )

    return run
