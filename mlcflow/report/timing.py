"""How long calls take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Times:
    """Seconds of ``calls`` calls of one function."""

    calls: int
    median: float
    least: float

    def __str__(self) -> str:
        return f"median {duration(self.median)}, least {duration(self.least)}, {self.calls} calls"


def time_calls(function: Callable[[], object], calls: int) -> Times:
    """Call ``function`` once unmeasured, then ``calls`` times, each timed alone."""
    function()
    seconds = []
    for _ in range(calls):
        begin = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begin)
    return Times(calls, statistics.median(seconds), min(seconds))


def duration(seconds: float) -> str:
    """Seconds in the unit that keeps the number readable: ``4.21 µs``."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 0.9995:  # three digits, so 999.6 µs is 1.00 ms
            digits = f"{seconds * scale:#.3g}".rstrip(".")
            return f"{digits} {unit}" if seconds < 1 else f"{seconds:.1f} s"
    return f"{seconds * 1e9:.0f} ns"
