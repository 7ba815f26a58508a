"""What is measured on a GPU, and how: with the processor in its place."""

from __future__ import annotations

import math
import time

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from mlcflow.bench.sides import OURS
from mlcflow.gpu import bench
from mlcflow.gpu.bench import Ceilings, Measured, Result
from mlcflow.gpu.bench_command import run, sides_of
from mlcflow.gpu.bench_workloads import WORKLOADS, Mark
from mlcflow.tools import main

CPU = torch.device("cpu")


def timer(call, seconds):
    begin = time.perf_counter()
    call()
    return [time.perf_counter() - begin]


def measured(sides, rounds=2):
    model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU())
    return bench.measure("x", (model, (torch.empty(3, 8),)), sides, CPU, timer, rounds=rounds)


def lazy(model, example):
    """Computes once, and gives the same memory again: wrong as soon as somebody writes there."""
    kept = model(*example)
    return lambda *inputs: kept


def broken(model, example):
    raise RuntimeError("no such thing\nand more")


def test_sides_that_are_right_have_times():
    found = measured({OURS: bench.eager, "lazy": lazy, "broken": broken})
    assert set(found.sides) == {OURS} and found.sides[OURS].calls == 2
    assert found.sides[OURS].error <= 1 and found.flops == 2 * 3 * 8 * 4
    assert found.failures["broken"] == "RuntimeError: no such thing"
    assert found.failures["lazy"].startswith("wrong: inf times")


def test_rounding_is_not_wrong_and_little_more_is():
    def off(factor):
        return lambda model, example: lambda *inputs: [x * factor for x in model(*inputs)]

    found = measured({"near": off(1 + 1e-7), "far": off(1 + 1e-3)})
    assert set(found.sides) == {"near"} and found.failures["far"].startswith("wrong: ")


def test_errors():
    ones = [torch.ones(2)]
    assert bench.worst(ones, [torch.ones(3)], 1e-3) == math.inf
    assert bench.worst([], ones, 1e-3) == math.inf
    assert bench.worst([torch.tensor([math.nan, 1])], ones, 1e-3) == math.inf
    assert bench.worst([torch.tensor([1.001, 1])], [torch.ones(2).double()], 1e-3) == pytest.approx(
        1, rel=1e-3
    )
    assert bench.worst([torch.tensor([1, 2])], [torch.tensor([1, 3])], 1e-3) == math.inf


def test_inputs_are_fresh_and_indices_stay_valid():
    example = torch.empty(4), torch.arange(7)
    first, second = (bench.draw(example, CPU, seed) for seed in (1, 2))
    assert not torch.equal(first[0], second[0])
    assert sorted(first[1].tolist()) == list(range(7))


def test_marks():
    result = Result("x", 8 * 10**12, 10**9, {OURS: Measured(1e-3, 1e-3, 5, 0.1),
                                             "eager": Measured(2e-3, 2e-3, 5, 0.1)})  # fmt: skip
    mark = Mark(of_copy=0.85, of_matmul=0.5, within={"eager": 1.0, "inductor": 1.0})
    found = bench.judge(mark, result, Ceilings(1.1e12, 2e16))
    assert [verdict.met for verdict in found] == [True, False, True, None]
    assert found[1].found == "40%"
    result.failures[OURS] = "wrong"
    assert not bench.judge(mark, Result("x", 1, 1), Ceilings(1, 1))[0].met


def test_one_run(monkeypatch):
    small = {"mlp-784-512-512-10": WORKLOADS["mlp-784-512-512-10"]}
    monkeypatch.setitem(bench.SIDES, OURS, bench.eager)
    console = Console(record=True, width=120)
    given = {"rounds": 1, "budget": 0.1}
    (found,) = run(list(small), sides_of("eager,openvino"), CPU, timer, given, console, size=64)
    assert set(found["sides"]) == {OURS, "eager"} and found["ceilings"]["copy"] > 0
    assert "inductor: not run, not known" in console.export_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has one")
def test_a_machine_without_a_gpu():
    result = CliRunner().invoke(main, ["bench", "--target=cuda", "--suite=marks"])
    assert result.exit_code and "sees no GPU" in result.output + str(result.exception)
    result = CliRunner().invoke(main, ["bench", "--target=cuda", "matmul-8192-bf17"])
    assert "did you mean 'matmul-8192-bf16'" in result.output
