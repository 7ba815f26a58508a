"""Profiles: what each kernel takes, has to do, and why it is slow."""

from __future__ import annotations

import json
import platform
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import mlcflow
from mlcflow import Target
from mlcflow.graph.kernel import find_kernels
from mlcflow.report import profile as profiles
from mlcflow.report.assembly import HotLoop, Instruction
from mlcflow.report.peak import Bandwidth
from mlcflow.report.profile import Ceiling, KernelProfile, Profile
from mlcflow.report.slow import Facts, why_slow
from mlcflow.report.ticks import time_kernel_calls
from mlcflow.report.work import flops, nbytes

is_elf = sys.platform == "linux" and platform.machine() == "x86_64"
CEILING = Ceiling(100.0, ((1e6, 50.0), (float("inf"), 10.0)))


def layers() -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    equal = [torch.nn.Linear(64, 64) for _ in range(3)]
    model = torch.nn.Sequential(*equal, torch.nn.Linear(64, 96), torch.nn.ReLU())
    return model.eval(), torch.randn(8, 64)


@pytest.fixture(scope="module")
def profile() -> Profile:
    model, x = layers()
    executable = mlcflow.compile(model, x, target=replace(Target.host(), cores=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiles, "measure_ceiling", lambda threads: CEILING)
        return executable.profile(x, seconds=0.2)


def test_a_row_a_kernel(profile: Profile) -> None:
    calls = {row.loops: row.calls for row in profile.kernels}
    assert calls == {(8, 64, 64): 3, (8, 96, 64): 1}
    for row in profile.kernels:
        assert row.rule == "contraction" and row.kind == "contraction"
        rows, columns, inner = row.loops
        assert row.flops >= 2 * rows * columns * inner
        assert row.bytes >= 4 * (rows * inner + inner * columns + rows * columns)
        assert row.gflops == pytest.approx(row.flops * row.calls / row.seconds / 1e9)
        least = CEILING.seconds(row.flops, row.bytes) * row.calls
        assert row.of_roofline == pytest.approx(least / row.seconds)


def test_the_times_add_up(profile: Profile) -> None:
    inside = sum(row.seconds for row in profile.kernels)
    assert profile.main == pytest.approx(inside + profile.between)
    assert sum(row.share for row in profile.kernels) <= 1.000001
    assert profile.kernels[0].seconds >= profile.kernels[-1].seconds
    assert profile.main < profile.seconds  # a call from Python is more than its code
    assert profile.runs >= 5 and profile.threads == 1


def test_as_text_and_as_data(profile: Profile) -> None:
    text = str(profile)
    for row in profile.kernels:
        assert row.name in text
    assert "between kernels" in text and "1 thread on" in text
    data = json.loads(profile.to_json())
    assert {row["name"] for row in data["kernels"]} == {row.name for row in profile.kernels}
    assert data["kernels"][0]["gflops"] == profile.kernels[0].gflops


def test_the_stamps_measure_time() -> None:
    """A kernel with a known share: beside one that does a hundredth of its work."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(1024, 1024), torch.nn.Linear(1024, 16))
    x = torch.randn(64, 1024)
    executable = mlcflow.compile(model, x, target=replace(Target.host(), cores=1))
    results = []
    begin = time.perf_counter()
    times = time_kernel_calls(executable, lambda timed: results.append(timed(x)), 0.2)
    passed = time.perf_counter() - begin
    assert len(times.sites) == 2
    large, small = (seconds for _, seconds in times.sites)
    assert 4 * small < large < times.main < passed / times.runs * 1.1
    # The copy with stamps computes the same, and so does the original after it.
    for result in (results[0], results[-1], executable(x)):
        torch.testing.assert_close(result, model(x), rtol=1e-4, atol=1e-4)


def test_work_of_kernels_that_do_not_multiply() -> None:
    table = torch.nn.Embedding(1000, 64)
    ids = torch.arange(5)
    executable = mlcflow.compile(torch.nn.Sequential(table, torch.nn.Tanh()), ids)
    kernels = find_kernels(executable.stages["kernels"])
    # Five rows of the table are read, not all of it.
    assert sum(nbytes(kernel.function) for kernel in kernels) < 4 * 64 * 5 * 8
    assert sum(flops(kernel) for kernel in kernels) == 5 * 64


@pytest.mark.skipif(not is_elf, reason="reads x86-64 code")
def test_a_kernel_without_a_rule_says_so() -> None:
    exe = mlcflow.compile(lambda x: x.argmax(-1), torch.randn(64, 64))
    rules = {row.rule: row for row in exe.profile(torch.randn(64, 64), seconds=0.05).kernels}
    assert "loops" in rules
    assert any("no schedule rule applies" in words for words, _ in rules["loops"].why)


def loop(**changed: object) -> HotLoop:
    fast = HotLoop("k", True, {512: 16}, {512: 16}, 10, 0, 0, (), ())
    return replace(fast, **changed)  # type: ignore[arg-type]


def row(**changed: object) -> KernelProfile:
    slow = KernelProfile(
        "k", "contraction", (8, 8, 8), "contraction", 1, 1e-3, 1.0, 10**7, 10**4, 0.1, ()
    )
    return replace(slow, **changed)  # type: ignore[arg-type]


FACTS = Facts(loop(), calls=(), parallel=True, vector_bits=512)
GATHER = Instruction(0, "vgatherdps zmm0, [rax]")


@pytest.mark.parametrize(
    ("kernel", "facts", "expected"),
    [
        (row(), replace(FACTS, loop=loop(spills=3)), "spills: 3"),
        (row(), replace(FACTS, loop=loop(fmas={}, arithmetic={32: 4})), "one element at a time"),
        (row(), replace(FACTS, loop=loop(arithmetic={256: 4})), "256 of the 512 bits"),
        (row(), replace(FACTS, loop=loop(instructions=(GATHER,))), "gathers: 1"),
        (row(), replace(FACTS, loop=loop(loads=40)), "40 loads for 16"),
        (row(), replace(FACTS, calls=("expf", "expf")), "calls expf at 2 places"),
        (row(), replace(FACTS, parallel=False), "one thread of 2"),
        (row(rule="loops"), FACTS, "no schedule rule"),
        (row(seconds=1e-6), FACTS, "small"),
        (row(), FACTS, "10% of what arithmetic allows"),
        (row(bytes=10**8, flops=10, of_roofline=0.9), FACTS, "memory bound"),
        (row(), None, "10% of what arithmetic allows"),
    ],
)
def test_why(kernel: KernelProfile, facts: Facts | None, expected: str) -> None:
    reasons = why_slow(kernel, facts, CEILING, 2)
    assert [words for words, _ in reasons if expected in words], reasons
    assert len(reasons) == 1 and all(knob for _, knob in reasons)


def test_a_fast_kernel_needs_no_reason() -> None:
    assert why_slow(row(of_roofline=0.9), replace(FACTS, loop=loop(spills=3)), CEILING, 2) == []


def test_the_ceiling_is_measured_for_caches_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def bandwidth(target: Target, *, threads: int, nbytes: int | None = None) -> Bandwidth:
        asked.append(nbytes)
        return Bandwidth(1.0, 2.0, 3.0)

    monkeypatch.setattr("mlcflow.report.peak.memory_bandwidth", bandwidth)
    monkeypatch.setattr("mlcflow.report.peak.fma_peak", lambda *a, **k: 100.0)
    ceiling = profiles.measure_ceiling.__wrapped__(2)
    _, second, third = Target.host().caches
    assert asked == [second // 2, third // 8, None]
    assert [rate for _, rate in ceiling.bandwidth] == [3.0] * 3
    assert ceiling.gigabytes(10**12) == 3.0 and np.isinf(ceiling.bandwidth[-1][0])
