"""What a benchmark found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mlcflow.bench.sides import OURS
from mlcflow.report.peak import Bandwidth, fma_peak, memory_bandwidth


@dataclass(frozen=True)
class Peaks:
    """What ``threads`` threads of this machine do at most: f32 GFLOP/s, and GB/s."""

    threads: int
    fma: float
    memory: Bandwidth


def measure_peaks(threads: int) -> Peaks:
    """Measure this machine; some seconds."""
    return Peaks(threads, fma_peak(threads=threads), memory_bandwidth(threads=threads))


@dataclass(frozen=True)
class SideResult:
    """One side, whose results were right in every round.

    ``median`` and ``least`` are seconds of a call, of ``calls`` calls. ``error`` is the
    largest error in units of what rounding explains. ``cores``: how many it kept busy.
    ``compile_seconds``: from the PyTorch model to the first result, ``cached_seconds``: the
    same where the side finds on disk what it made before, if it keeps such. ``run_bytes`` and
    ``compile_bytes``: peak memory beyond the libraries, weights included.
    """

    version: str
    calls: int
    median: float
    least: float
    error: float
    cores: float
    compile_seconds: float
    cached_seconds: float | None
    compile_bytes: int
    run_bytes: int


@dataclass(frozen=True)
class Result:
    """What the sides did with one model.

    ``work``: ``flops`` and ``bytes`` of a call, ``weight_bytes``, and the ``tolerance``.
    ``failures``: why the other sides have no times.
    """

    model: str
    threads: int
    work: Mapping[str, Any]
    sides: Mapping[str, SideResult]
    failures: Mapping[str, str]

    def ratio(self, side: str) -> float | None:
        """Time of the side, in times of ours; above 1, ours is faster. ``None``: not known."""
        ours = self.sides.get(OURS)
        return self.sides[side].median / ours.median if ours else None

    def gflops(self, side: str) -> float:
        """GFLOP/s of contractions; 0 if the model has none."""
        return float(self.work["flops"]) / self.sides[side].median / 1e9

    def gigabytes(self, side: str) -> float:
        """GB/s, if each input, weight and result is moved once."""
        return float(self.work["bytes"]) / self.sides[side].median / 1e9

    def as_data(self, peaks: Peaks) -> dict[str, Any]:
        """All of it for JSON."""
        sides = {
            name: asdict(side)
            | {
                "ratio": self.ratio(name),
                "gflops": self.gflops(name),
                "of_fma": self.gflops(name) / peaks.fma,
                "gigabytes": self.gigabytes(name),
                "of_memory": self.gigabytes(name) / peaks.memory.best,
            }
            for name, side in self.sides.items()
        }
        return {
            "model": self.model,
            "threads": self.threads,
            "peaks": asdict(peaks),
            "work": dict(self.work),
            "sides": sides,
            "failures": dict(self.failures),
        }
