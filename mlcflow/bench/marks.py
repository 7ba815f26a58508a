"""Whether a workload reaches its mark."""

from __future__ import annotations

from dataclasses import dataclass

from mlcflow.bench.result import Peaks, Result
from mlcflow.bench.sides import OURS, PEERS
from mlcflow.bench.workloads import Mark


@dataclass(frozen=True)
class Verdict:
    """One demand of a mark: in words, what was found, and whether that is enough.

    ``met`` is ``None`` where it could not be told: the peer has not run.
    """

    demand: str
    found: str
    met: bool | None


def judge(mark: Mark, result: Result, peaks: Peaks) -> list[Verdict]:
    """Each demand of ``mark``, compared with the medians of ``result``."""
    ours = result.sides.get(OURS)
    if ours is None:
        return [Verdict("runs", result.failures.get(OURS, "not run"), False)]
    found = []
    if mark.of_fma:
        reached = result.gflops(OURS) / peaks.fma
        found.append(_at_least("of FMA peak", mark.of_fma, reached))
    if mark.of_memory:
        reached = result.gigabytes(OURS) / peaks.memory.best
        found.append(_at_least("of memory bandwidth", mark.of_memory, reached))
    found += _against(mark, result)
    if mark.compile_seconds:
        seconds = ours.compile_seconds
        demand = f"compiles in {mark.compile_seconds:g} s"
        found.append(Verdict(demand, f"{seconds:.1f} s", seconds <= mark.compile_seconds))
    if mark.cached_seconds and ours.cached_seconds is not None:
        met = ours.cached_seconds <= mark.cached_seconds
        demand = f"from the cache in {mark.cached_seconds:g} s"
        found.append(Verdict(demand, f"{ours.cached_seconds:.2f} s", met))
    if mark.extra_bytes:
        allowed = 2 * result.work["weight_bytes"] + mark.extra_bytes
        demand = f"memory at most {allowed >> 20} MiB"
        found.append(Verdict(demand, f"{ours.run_bytes >> 20} MiB", ours.run_bytes <= allowed))
    return found


def _at_least(what: str, demand: float, reached: float) -> Verdict:
    return Verdict(f"{demand:.0%} {what}", f"{reached:.0%}", reached >= demand)


def _against(mark: Mark, result: Result) -> list[Verdict]:
    """One demand of time for each peer, or for the fastest of those that have run."""
    if "*" in mark.within:
        ran = [name for name in PEERS if name in result.sides]
        fastest = min(ran, key=lambda name: result.sides[name].median, default="")
        return [_within(fastest or "any peer", mark.within["*"], result)]
    return [_within(name, limit, result) for name, limit in mark.within.items()]


def _within(peer: str, limit: float, result: Result) -> Verdict:
    demand = f"at most {limit:.3g} x {peer}" if limit != 1 else f"faster than {peer}"
    if peer not in result.sides:
        return Verdict(demand, "not run", None)
    ratio = result.sides[OURS].median / result.sides[peer].median
    return Verdict(demand, f"{ratio:.2f} x", ratio <= limit if limit != 1 else ratio < 1)
