"""Everything that stops a model is listed at once, and what is left goes on."""

from __future__ import annotations

import json

import planted as bugs
import pytest
import torch
from click.testing import CliRunner
from planted import planted

from mlcflow.check.coverage import Coverage, check_coverage
from mlcflow.compiler import build_pipeline
from mlcflow.tools import main

X = torch.eye(4) + 1


def check(model, *args, pipeline=None) -> Coverage:
    return check_coverage(model, args, {}, pipeline or build_pipeline("cpu"))


def several(x: torch.Tensor) -> torch.Tensor:
    q, _ = torch.linalg.qr(x)
    y = torch.lgamma(q.abs() + 1)
    return torch.lgamma(y.abs() + 1) + torch.special.erfinv(torch.tanh(y))


FIRST = several.__code__.co_firstlineno


def test_what_torch_mlir_refuses() -> None:
    found = check(several, X)
    by_name = {blocker.operation: blocker for blocker in found.blockers}
    assert set(by_name) == {"aten.linalg_qr", "aten.lgamma", "aten.erfinv"}
    lgamma = by_name["aten.lgamma"]
    assert (lgamma.stage, lgamma.count, lgamma.types) == ("linalg", 2, ("f32[4x4]",))
    assert lgamma.where.endswith(f"test_coverage.py:{FIRST + 3}")
    assert f"test_coverage.py:{FIRST + 2}," in lgamma.where
    assert "outside the model" in by_name["aten.linalg_qr"].remedy
    assert found.stages[-1] == "machine code", "the rest has not gone on"


def branches(x: torch.Tensor) -> torch.Tensor:
    if x.sum() > 0:
        x = x * 2
    return torch.lgamma(x)


def test_what_torch_export_refuses_does_not_hide_the_rest() -> None:
    found = check(branches, X)
    assert [blocker.stage for blocker in found.blockers] == ["export", "linalg"]
    line = branches.__code__.co_firstlineno + 1
    assert found.blockers[0].where.endswith(f"test_coverage.py:{line}")
    assert "torch.where" in found.blockers[0].remedy


def loops(x: torch.Tensor) -> torch.Tensor:
    from torch._higher_order_ops.scan import scan

    carry, rows = scan(lambda c, row: (c + row, c * 1.0), torch.zeros(4), x)
    return torch.lgamma(rows) + carry


def test_what_the_importer_does_not_know() -> None:
    found = check(loops, X)
    assert [(b.stage, b.operation) for b in found.blockers] == [
        ("import", "scan"),
        ("linalg", "aten.lgamma"),
    ]


def test_a_clean_model_tells_its_kernels_and_their_rules() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    found = check(model, torch.randn(2, 8))
    assert not found.blockers
    assert found.stages[0] == "import" and found.stages[-1] == "machine code"
    assert found.rules["contraction"] == 2
    assert sum(found.rules.values()) == len(found.kernels)


@pytest.mark.parametrize(
    ("bug", "reason"), [(bugs.refuses, "more than"), (bugs.crashes, "SIGABRT")]
)
def test_what_a_stage_refuses_is_found_among_all_operations(bug, reason: str) -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(torch.relu(x) - 1, -1)

    found = check(model, X, pipeline=planted("schedule", bug, 0))
    assert found.blockers and {b.stage for b in found.blockers} == {"schedule"}
    for blocker in found.blockers:
        assert reason in blocker.reason and "test_coverage.py" in blocker.where
        wanted = "math.exp" if bug is bugs.crashes else "arith.maximumf"
        assert wanted in blocker.operation
    assert "bufferize" not in found.stages


MODEL = """
import torch

def model(x):
    return torch.lgamma(x)

def good(x):
    return x + 1

inputs = torch.ones(3)
"""


def test_the_command_line(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(MODEL)
    bad = CliRunner().invoke(main, ["check", "net.py"])
    assert bad.exit_code == 1
    assert "1 thing stands in the way" in bad.output and "at       net.py:5" in bad.output
    data = json.loads(CliRunner().invoke(main, ["check", "net.py", "--json"]).output)
    assert not data["ok"] and data["blockers"][0]["operation"] == "aten.lgamma"
    good = CliRunner().invoke(main, ["check", "net.py:good"])
    assert good.exit_code == 0 and "nothing stands in the way" in good.output
