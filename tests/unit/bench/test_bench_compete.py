"""Sides in processes of their own: what is measured, and what is refused."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mlcflow.bench import workloads
from mlcflow.bench.compete import Settings, compete
from mlcflow.bench.marks import judge
from mlcflow.bench.model import Flat
from mlcflow.bench.process import Worker, WorkerError
from mlcflow.bench.result import Peaks, Result, SideResult
from mlcflow.bench.workloads import WORKLOADS, Mark
from mlcflow.errors import MlcflowError
from mlcflow.report.peak import Bandwidth

QUICK = Settings(threads=1, rounds=2, budget=0.02, limit=120.0)
GIB = 1 << 30


def write(folder: Path, text: str) -> str:
    path = folder / "model.py"
    path.write_text("import os\nimport torch\n" + text)
    return str(path)


def run(model: str, *peers: str, settings: Settings = QUICK) -> Result:
    return compete(model, peers, settings, lambda text: None)


def test_each_side_is_verified_and_timed() -> None:
    result = run("mlp-784-128-10", "eager")
    assert set(result.sides) == {"mlcflow", "eager"} and not result.failures
    for side in result.sides.values():
        assert 0 < side.least <= side.median < 0.1
        assert 0 < side.error < 1 and side.calls >= QUICK.rounds
        assert 0 < side.compile_seconds < 100 and side.run_bytes < GIB
    ours = result.sides["mlcflow"]
    assert result.sides["eager"].cached_seconds is None
    assert ours.cached_seconds is None or ours.cached_seconds < ours.compile_seconds
    assert result.work["flops"] == 2 * (784 * 128 + 128 * 10)
    assert result.ratio("mlcflow") == 1
    assert result.as_data(PEAKS)["sides"]["eager"]["gflops"] == result.gflops("eager")


def test_a_model_of_a_file_with_keywords_and_several_results(tmp_path: Path) -> None:
    text = """
class model(torch.nn.Module):
    def forward(self, x, *, scale, keep=True):
        return {"sum": x.sum(-1), "scaled": x * scale if keep else x, "flag": keep}
inputs = {"x": torch.randn(4, 8), "scale": torch.tensor(3.0), "keep": True}
"""
    result = run(write(tmp_path, text), "eager")
    assert set(result.sides) == {"mlcflow", "eager"}, result.failures


def test_wrong_results_get_no_time(tmp_path: Path) -> None:
    """A side is another process than the reference, and here that shows in what it computes."""
    text = """
shift = float(os.getpid())
def model(x):
    return x + shift
inputs = torch.randn(4)
"""
    result = run(write(tmp_path, text), "eager")
    assert not result.sides
    assert set(result.failures) == {"mlcflow", "eager"}
    assert all(reason.startswith("wrong results") for reason in result.failures.values())
    assert not judge(Mark(within={"*": 1.0}), result, PEAKS)[0].met


def test_a_side_that_writes_nothing_is_wrong(tmp_path: Path) -> None:
    """Its results are overwritten before the call whose results count."""
    text = """
kept = []
def model(x):
    if torch.compiler.is_exporting() or x.dtype == torch.float64:
        return x + 1
    if not kept:
        kept.append(x + 1)
    return kept[0]
inputs = torch.ones(4)
"""
    result = run(write(tmp_path, text), "eager")
    assert set(result.sides) == {"mlcflow"}
    assert result.failures["eager"].startswith("wrong results: inf")


def test_weights_must_be_the_same_in_each_process(tmp_path: Path) -> None:
    text = "torch.seed()\nmodel = torch.nn.Linear(4, 4)\ninputs = torch.randn(1, 4)\n"
    with pytest.raises(MlcflowError, match="call torch.manual_seed"):
        run(write(tmp_path, text))


def test_a_model_that_cannot_be_built_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MlcflowError, match="raised ZeroDivisionError"):
        run(write(tmp_path, "model = 1 / 0\n"))
    slow = "import time\ntime.sleep(60)\n"
    with pytest.raises(MlcflowError, match="not done within 1 s"):
        run(write(tmp_path, slow), settings=Settings(1, 1, 0.01, 1.0))


def test_a_peer_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tvm.py").write_text("raise ModuleNotFoundError(name='tvm')\n")
    (tmp_path / "openvino.py").write_text("import os\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = run("mlp-784-128-10", "tvm", "openvino")
    assert set(result.sides) == {"mlcflow"}
    assert "not installed: no module 'tvm'; pip install 'mlcflow[bench]'" in result.failures["tvm"]
    assert "ended by signal 6" in result.failures["openvino"]


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads the state of a process")
def test_a_worker_stands_still_between_questions(tmp_path: Path) -> None:
    with Worker("eager") as worker:
        worker.ask("load", 60.0, model="mlp-784-128-10", threads=1, folder=str(tmp_path))
        pid = worker._process.pid
        _wait_until_stopped(pid)
        with pytest.raises(WorkerError, match="AttributeError"):
            worker.ask("nothing", 60.0)
        _wait_until_stopped(pid)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def _wait_until_stopped(pid: int) -> None:
    end = time.monotonic() + 5
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < end, "still running"
        time.sleep(0.01)


PEAKS = Peaks(1, 100.0, Bandwidth(10.0, 10.0, 10.0))


def side(median: float, run_bytes: int = 0) -> SideResult:
    return SideResult("1", 1, median, median, 0.1, 1.0, 20.0, 1.5, 0, run_bytes)


def test_marks() -> None:
    work = {"flops": 80e9, "bytes": 6e9, "weight_bytes": GIB, "tolerance": 1e-5}
    sides = {"mlcflow": side(1.0, 3 * GIB), "eager": side(2.0), "openvino": side(0.95)}
    result = Result("x", 1, work, sides, {"inductor": "did not compile"})
    limits = {"eager": 1.0, "openvino": 1.1, "inductor": 1.0}
    mark = Mark(0.85, 0.5, limits, compile_seconds=30.0, cached_seconds=1.0, extra_bytes=GIB // 2)
    verdicts = [(v.demand, v.found, v.met) for v in judge(mark, result, PEAKS)]
    assert verdicts == [
        ("85% of FMA peak", "80%", False),
        ("50% of memory bandwidth", "60%", True),
        ("faster than eager", "0.50 x", True),
        ("at most 1.1 x openvino", "1.05 x", True),
        ("faster than inductor", "not run", None),
        ("compiles in 30 s", "20.0 s", True),
        ("from the cache in 1 s", "1.50 s", False),
        ("memory at most 2560 MiB", "3072 MiB", False),
    ]
    (fastest,) = judge(Mark(within={"*": 1.0}), result, PEAKS)
    assert (fastest.demand, fastest.met) == ("faster than openvino", False)


@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads_run(name: str) -> None:
    import torch

    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    model, args = WORKLOADS[name].build()
    flat = Flat(model.eval() if isinstance(model, torch.nn.Module) else model, args, {})
    with torch.inference_mode():
        results = flat(*args)
    assert results and all(torch.isfinite(value).all() for value in results)
    assert WORKLOADS[name].mark != Mark()


def test_every_row_of_the_marks_has_its_workload() -> None:
    models = {name for name, each in WORKLOADS.items() if each.mark == workloads.MODEL}
    assert models == {"resnet50", "mobilenetv2", "bert-base-128", "vit-b16", "gpt2-64"}
    assert {f"matmul-odd-{rows}" for rows in (1, 4, 7, 16, 33)} <= set(WORKLOADS)
    assert [WORKLOADS[n].threads for n in ("matmul-1024", "matmul-1024-activations")] == [1, 1]
