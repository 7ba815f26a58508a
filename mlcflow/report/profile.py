"""Where the time of a compiled model goes: a row a kernel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from mlcflow.graph.kernel import Kernel, read_kernel
from mlcflow.graph.outline import kernels
from mlcflow.mlir import ir
from mlcflow.report.slow import Facts, read_facts, why_slow
from mlcflow.report.ticks import CallTimes, time_kernel_calls
from mlcflow.report.timing import time_calls
from mlcflow.report.work import flops, nbytes
from mlcflow.target import Target

if TYPE_CHECKING:
    from mlcflow.runtime.executable import Executable


@dataclass(frozen=True)
class Ceiling:
    """What the machine can do at most, on as many threads as the executable uses.

    ``fma``: GFLOP/s. ``bandwidth``: GB/s by the bytes that a kernel may touch to get it, from
    the second cache to memory, whose limit is infinite.
    """

    fma: float
    bandwidth: tuple[tuple[float, float], ...]

    def gigabytes(self, size: int) -> float:
        """GB/s that a kernel which touches ``size`` bytes can get."""
        return next(rate for limit, rate in self.bandwidth if size <= limit)

    def seconds(self, operations: int, size: int) -> float:
        """The least time of so many operations on so many bytes: the roofline."""
        return max(operations / self.fma, size / self.gigabytes(size)) / 1e9


@dataclass(frozen=True)
class KernelProfile:
    """One kernel: ``calls`` in a call of the model, and ``seconds`` in all of them together.

    ``share`` of the time of the model. ``flops`` and ``bytes`` of one call, 0 where unknown.
    ``of_roofline``: the least time that the machine needs for them, over the time it took.
    ``rule``: what scheduled it. ``why``: reasons why it is slow, each with what changes it.
    """

    name: str
    kind: str
    loops: tuple[int, ...]
    rule: str
    calls: int
    seconds: float
    share: float
    flops: int
    bytes: int
    of_roofline: float | None
    why: tuple[tuple[str, str], ...]

    @property
    def gflops(self) -> float:
        """GFLOP/s."""
        return self.flops * self.calls / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def gigabytes(self) -> float:
        """GB/s, caches included."""
        return self.bytes * self.calls / self.seconds / 1e9 if self.seconds else 0.0


@dataclass(frozen=True)
class Profile:
    """All kernels, the slowest first. ``str()`` is a table, ``to_json()`` data.

    ``seconds``: median of a call from Python. The rest is the average over the fastest quarter
    of ``runs`` calls: ``main`` seconds in compiled code, ``between`` of them outside of
    kernels. The calls had ``cores`` processors for ``threads`` threads, fewer if other
    programs ran.
    """

    kernels: tuple[KernelProfile, ...]
    seconds: float
    main: float
    between: float
    runs: int
    threads: int
    cores: float
    ceiling: Ceiling

    def __str__(self) -> str:
        from mlcflow.report.profile_text import as_text

        return as_text(self)

    def as_data(self) -> dict[str, Any]:
        """All of it for JSON."""
        rows = [
            asdict(row) | {"gflops": row.gflops, "gigabytes": row.gigabytes} for row in self.kernels
        ]
        # JSON has no infinity: the last bandwidth is that of memory.
        bandwidth = [rate for _, rate in self.ceiling.bandwidth]
        ceiling = {"fma_gflops": self.ceiling.fma, "bandwidth": bandwidth}
        return asdict(self) | {"kernels": rows, "ceiling": ceiling}

    def to_json(self) -> str:
        """All of it as JSON text."""
        return json.dumps(self.as_data(), indent=2)


def profile(
    executable: Executable, args: tuple, kwargs: Mapping[str, Any], *, seconds: float = 1.0
) -> Profile:
    """Time each kernel in place for ``seconds``; see :mod:`mlcflow.report.ticks`.

    Compiles the module twice more, for the stamps and for its instructions. Reasons that lie
    in the instructions need ``mlcflow[report]`` and x86-64 Linux, and are left out elsewhere.
    """
    times = time_kernel_calls(executable, lambda timed: timed(*args, **kwargs), seconds)
    whole = time_calls(lambda: executable(*args, **kwargs), max(5, min(times.runs, 1000)))
    known, rules = _described(executable)
    facts = read_facts(executable)
    names = list(dict.fromkeys(name for name, _ in times.sites))
    ceiling = measure_ceiling(executable.threads)
    rows = [
        _row(name, times, known.get(name), rules.get(name, ""), facts, ceiling, executable)
        for name in names
    ]
    return Profile(
        kernels=tuple(sorted(rows, key=lambda row: -row.seconds)),
        seconds=whole.median,
        main=times.main,
        between=max(0.0, times.main - sum(row.seconds for row in rows)),
        runs=times.runs,
        threads=executable.threads,
        cores=times.cores,
        ceiling=ceiling,
    )


@cache
def measure_ceiling(threads: int) -> Ceiling:
    """Measure this machine; some seconds the first time."""
    from mlcflow.report.peak import fma_peak, memory_bandwidth

    target = Target.host()
    _, second, third = target.caches
    inside = [(float(second * threads), second // 2), (float(third), third // 4 // threads)]
    bandwidth = [
        (limit, memory_bandwidth(target, threads=threads, nbytes=size).best)
        for limit, size in inside
    ]
    bandwidth.append((float("inf"), memory_bandwidth(target, threads=threads).best))
    return Ceiling(fma_peak("f32", target, threads=threads), tuple(bandwidth))


def _described(executable: Executable) -> tuple[dict[str, Kernel], dict[str, str]]:
    """Each kernel as the graph was cut, and the rule that scheduled each."""
    found: dict[str, Kernel] = {}
    rules: dict[str, str] = {}
    for record in executable.stages.records:
        for function in kernels(record.module):
            name = function.name.value
            if "mlcflow.rule" in function.attributes:
                rules[name] = ir.StringAttr(function.attributes["mlcflow.rule"]).value
            if name not in found:
                kernel = read_kernel(function)
                if kernel is not None:
                    found[name] = kernel
    return found, rules


def _row(
    name: str,
    times: CallTimes,
    kernel: Kernel | None,
    rule: str,
    facts: Mapping[str, Facts],
    ceiling: Ceiling,
    executable: Executable,
) -> KernelProfile:
    took = [seconds for called, seconds in times.sites if called == name]
    operations = flops(kernel) if kernel else 0
    size = nbytes(kernel.function) if kernel else 0
    total = sum(took)
    least = ceiling.seconds(operations, size) * len(took) if size else 0.0
    of_roofline = least / total if least and total else None
    row = KernelProfile(
        name=name,
        kind=kernel.kind if kernel else "",
        loops=kernel.loops if kernel else (),
        rule=rule,
        calls=len(took),
        seconds=total,
        share=total / times.main,
        flops=operations,
        bytes=size,
        of_roofline=of_roofline,
        why=(),
    )
    reasons = why_slow(row, facts.get(name), ceiling, executable.threads)
    return KernelProfile(**{**vars(row), "why": tuple(reasons)})
