"""``mlcflow bench``: names, options, what it prints and what it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from mlcflow.bench import result as results
from mlcflow.bench.workloads import WORKLOADS
from mlcflow.report import profile as profiles
from mlcflow.report.peak import Bandwidth
from mlcflow.report.profile import Ceiling
from mlcflow.tools import bench

Run = Callable[..., Result]
PEAKS = Bandwidth(10.0, 20.0, 30.0)


@pytest.fixture(autouse=True)
def peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not measure the machine: that takes seconds, and has tests of its own."""
    monkeypatch.setattr(results, "fma_peak", lambda threads: 100.0 * threads)
    monkeypatch.setattr(results, "memory_bandwidth", lambda threads: PEAKS)
    ceiling = Ceiling(100.0, ((1e6, 50.0), (float("inf"), 10.0)))
    monkeypatch.setattr(profiles, "measure_ceiling", lambda threads: ceiling)
    bench._peaks.cache_clear()


def test_the_list_names_every_workload(call: Run) -> None:
    result = call("bench", "--list")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == list(WORKLOADS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected one of MODEL"),
        (("resnet50", "--suite=marks"), "expected one of MODEL"),
        (("resnet5",), "unknown workload 'resnet5'; did you mean 'resnet50'"),
        (("missing.py",), "no file 'missing.py'"),
        (
            ("resnet50", "--against=eager,openvin"),
            "unknown side 'openvin'; did you mean 'openvino'",
        ),
        (("resnet50", "--threads=0"), "invalid value for '--threads'"),
        (("--suite=marks", "--kernels"), "--kernels needs a MODEL"),
    ],
)
def test_what_is_not_understood(call: Run, words: tuple[str, ...], message: str) -> None:
    result = call("bench", *words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_table_and_a_file(call: Run, folder: Path) -> None:
    options = ("--against=eager", "--threads=1", "--rounds=2", "--budget=0.02")
    result = call("bench", "model.py", *options, "--json=times.json")
    assert result.exit_code == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("machine: 1 thread: FMA 100 GFLOP/s; memory 10 GB/s reading")
    assert {line.split()[0] for line in lines[3:5]} == {"mlcflow", "eager"}
    data = json.loads((folder / "times.json").read_text())
    assert data["peaks"]["fma"] == 100.0 and data["failures"] == {}
    assert data["sides"]["mlcflow"]["ratio"] == 1.0
    assert data["sides"]["eager"]["error"] < 1


def test_json_alone(call: Run, folder: Path) -> None:
    options = ("--against=", "--threads=1", "--rounds=1", "--budget=0.01", "--json=-")
    result = call("bench", "model.py", *options)
    assert list(json.loads(result.stdout)["sides"]) == ["mlcflow"]


def test_kernels(call: Run, folder: Path) -> None:
    options = ("--kernels", "--threads=1", "--budget=0.05")
    result = call("bench", "model.py", *options, "--json=kernels.json")
    assert result.exit_code == 0, result.stderr
    assert "between kernels" in result.stdout
    rows = json.loads((folder / "kernels.json").read_text())["kernels"]
    assert all(row["name"] in result.stdout for row in rows)


def test_ours_is_wrong(call: Run, folder: Path) -> None:
    """The exit code says so, and the table why."""
    (folder / "wrong.py").write_text(
        "import os, torch\nshift = float(os.getpid())\n"
        "def model(x):\n    return x + shift\ninputs = torch.ones(4)\n"
    )
    options = ("--against=", "--threads=1", "--rounds=1", "--budget=0.01")
    result = call("bench", "wrong.py", *options)
    assert result.exit_code == 1
    assert "mlcflow: wrong results" in result.stdout
